"""A short warm-up at the rates that a run will reach, after which everything is as it was."""

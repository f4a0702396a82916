"""freezecheck inside other tools: one thin file each, which imports its framework."""

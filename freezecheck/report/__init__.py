"""Plain data to text: for a terminal, for a pipe, for another program."""

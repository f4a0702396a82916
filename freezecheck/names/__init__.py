"""Loops over names in a text, and the tests on names in them: read from the syntax tree."""

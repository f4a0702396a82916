"""The source half: what a text would do, found out without running it."""

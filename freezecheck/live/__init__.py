"""The live half: real objects and real runs, turned into plain data."""

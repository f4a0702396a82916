"""One file per rule; `freezecheck.catalogue` lists them."""

"""What libraries do, as data tables."""

"""The embedded stack: the whole pipeline on one machine, from packages alone."""

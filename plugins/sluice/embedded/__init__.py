"""The whole pipeline on one machine, from packages alone; nothing else depends on it."""

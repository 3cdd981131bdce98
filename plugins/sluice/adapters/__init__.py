"""The ports on real services, and their in-memory twins."""

"""Change events and their positions."""

"""Builds facts, rollups and views from the current state."""

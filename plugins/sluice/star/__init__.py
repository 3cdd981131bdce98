"""Facts, rollups and views, rebuilt from the source tables."""

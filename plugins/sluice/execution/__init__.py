"""How steps run: failpoints, progress, retries, outcomes of several tables."""

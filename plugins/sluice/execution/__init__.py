"""Execution of steps: failpoints, progress, retries, outcomes of several tables."""

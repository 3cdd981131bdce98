"""Serves the CDC page in Airflow's UI, its JSON API and its metrics."""

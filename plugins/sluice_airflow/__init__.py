"""Integrates Sluice in Airflow: settings from connections, tasks, the CDC page."""

"""Airflow's side: connections become settings, tasks call the library."""

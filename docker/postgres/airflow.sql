-- Run once, when the server makes its data: Airflow's metadata has a database of its own.
CREATE DATABASE airflow;

"""Compares PostgreSQL with ClickHouse and reports findings."""

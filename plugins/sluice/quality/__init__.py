"""Comparison of PostgreSQL with ClickHouse, and what it reports."""

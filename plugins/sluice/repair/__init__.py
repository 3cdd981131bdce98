"""Repairs tables that differ from PostgreSQL: resync, repair, recovery."""

"""Sluice: SQLAlchemy models become a ClickHouse star schema that follows PostgreSQL."""

"""Column types: from SQLAlchemy and PostgreSQL to events, the API and ClickHouse."""

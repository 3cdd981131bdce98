"""Sessions on PostgreSQL, ClickHouse and the broker; their errors become ours here."""

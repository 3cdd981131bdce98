"""What ClickHouse keeps: evolution of its tables, merges, maintenance, parked tables."""

"""ClickHouse's tables: evolution, merges, maintenance, ranges of resyncs, parked tables."""

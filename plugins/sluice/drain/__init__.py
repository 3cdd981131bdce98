"""From the topics to the source tables in ClickHouse."""

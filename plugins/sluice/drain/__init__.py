"""Drains topics into the current state in ClickHouse."""

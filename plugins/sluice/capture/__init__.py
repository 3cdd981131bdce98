"""The relay: from the WAL to the topics, and snapshots of PostgreSQL."""

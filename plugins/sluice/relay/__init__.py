"""The relay: Postgres' logical replication stream onto the topics, without a licence."""

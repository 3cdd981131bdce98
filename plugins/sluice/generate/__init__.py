"""Text from models: Pydantic schemas, ClickHouse DDL, the star's queries, topic and table lists."""

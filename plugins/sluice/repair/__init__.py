"""What brings tables back to what PostgreSQL has."""

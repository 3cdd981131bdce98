"""State of the pipeline for people: status, monitoring, doctor."""

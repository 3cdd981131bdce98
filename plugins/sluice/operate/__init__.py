"""Reports the state of the pipeline: status, monitoring, doctor."""

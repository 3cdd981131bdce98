"""The whole pipeline on one machine from packages alone; deleting this folder breaks nothing else."""

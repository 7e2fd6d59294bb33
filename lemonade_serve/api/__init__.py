"""HTTP: parse, answer, nothing else."""

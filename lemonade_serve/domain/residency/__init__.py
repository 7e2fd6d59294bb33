"""Which checkpoints are in memory."""

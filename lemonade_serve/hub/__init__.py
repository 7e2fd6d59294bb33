"""Checkpoints on disk and where they come from."""

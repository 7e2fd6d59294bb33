"""The parent side of child processes."""

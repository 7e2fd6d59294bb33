"""The child process that serves one checkpoint."""

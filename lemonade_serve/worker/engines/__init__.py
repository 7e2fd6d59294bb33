"""What decodes inside a worker."""

"""What decoder a GGUF file holds: one value for all architectures, and a module for each family."""

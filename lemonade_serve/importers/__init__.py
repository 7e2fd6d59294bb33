"""Jobs that make ONNX checkpoints out of other files."""

"""What encodes: embedding models and rerankers. Nothing is generated, and so nothing is kept
between two steps."""

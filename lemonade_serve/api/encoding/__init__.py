"""Embeddings as OpenAI has them, and reranking as Jina and Cohere do."""

"""Measurements; `docs/performance.md` says what came out."""

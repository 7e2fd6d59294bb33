"""The command line."""

from __future__ import annotations

from lemonade_serve.cli.root import main

__all__ = ["main"]

"""A command that writes to a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys

import click


def on_terminal(*arguments: str, columns: int = 80) -> str:
    """Run a command in a process of its own; returns what a person sees of it."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "lemonade_serve", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": str(columns)},
        )
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # Linux's word for the end
            while piece := os.read(ours, 65536):
                seen += piece
        assert process.wait() == 0, seen
    finally:
        os.close(ours)
    return click.unstyle(seen.decode())

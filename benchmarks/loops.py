"""Loops without a server, each in a process of its own: the prompt in, the times of its tokens
out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.prompts import Prompt

RAW = "benchmarks.raw_genai"


class Loop:
    """One of the modules that take `module CHECKPOINT THREADS`."""

    def __init__(self, module: str, checkpoint: Path, threads: int) -> None:
        command = [sys.executable, "-m", module, str(checkpoint), str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, prompt: Prompt, tokens: int) -> tuple[float, list[float]]:
        """When it began, and when each token was there, by `time.perf_counter`, which is one clock
        for all processes."""
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps([prompt, tokens]), file=self._process.stdin, flush=True)
        began, times = json.loads(self._process.stdout.readline())
        return began, times

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

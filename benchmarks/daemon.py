"""A daemon in a process of its own, and a client with its own clock."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from lemonade_serve.domain.checkpoint import CheckpointInfo

_WORDS = ("lemon", "lime", "orange", "river", "mountain", "quiet", "engine", "window", "paper")
_DEADLINE_S = 60.0
_KEPT_S = 10.0
"""The daemon hangs up on a connection that was idle for 30 s."""
_LOG_BYTES = 4096
_HOST = "127.0.0.1"


class Stream(NamedTuple):
    """When a request was sent, and when each piece of its text came, in seconds of
    `time.perf_counter`. Text that was held back makes fewer pieces than tokens."""

    began: float
    times: list[float]

    @property
    def time_to_first_token(self) -> float:
        return self.times[0] - self.began

    @property
    def gaps(self) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self.times)]


class Client:
    """Of a daemon on a port of this machine. One thread's."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection = http.client.HTTPConnection(_HOST, port, timeout=_DEADLINE_S)
        self._used = 0.0

    def ask(self, path: str, body: object = None, *, accept: str = "*/*") -> bytes:
        """GET, or with a body POST, over a connection that is kept; the answer's body."""
        if time.monotonic() - self._used > _KEPT_S:
            self._connection.close()  # and opened by the request
        content = None if body is None else json.dumps(body)
        headers = {"Accept": accept, "Content-Type": "application/json"}
        method = "GET" if body is None else "POST"
        self._connection.request(method, path, body=content, headers=headers)
        with self._connection.getresponse() as response:
            answer = response.read()
        self._used = time.monotonic()
        assert response.status == 200, answer
        return answer

    def stream(self, model: str, prompt: str, tokens: int) -> Stream:
        """Greedy, and so many tokens exactly. While it runs it only notes when which bytes came:
        it shares the cores."""
        body = {
            "model": model,
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        content = json.dumps(body).encode()
        head = (
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        chunks = []
        with socket.create_connection((_HOST, self._port), _DEADLINE_S) as connection:
            began = time.perf_counter()
            connection.sendall(head.encode() + content)
            while chunk := connection.recv(65536):
                chunks.append((time.perf_counter(), chunk))
        assert b"data: [DONE]" in b"".join(chunk for _, chunk in chunks), chunks[-1]
        return Stream(
            began, [at for at, chunk in chunks for _ in re.findall(rb'"text":"[^"]', chunk)]
        )

    def close(self) -> None:
        self._connection.close()


@contextmanager
def daemon(
    cache_dir: Path,
    settings: Mapping[str, object],
    command: Sequence[str] = ("lemonade_serve", "serve"),
) -> Iterator[int]:
    """`python -m command --port PORT`, with settings as they are called in the environment but for
    `LEMONADE_`, and with nobody else's state; the port on which it answers."""
    port = _free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LEMONADE_")}
    with tempfile.TemporaryDirectory() as state, tempfile.TemporaryFile() as log:
        own = {"CACHE_DIR": cache_dir, "STATE_DIR": state, **settings}
        process = subprocess.Popen(
            [sys.executable, "-m", *command, "--port", str(port)],
            env={**environment, **{f"LEMONADE_{name}": str(own[name]) for name in own}},
            stderr=log,
        )
        try:
            _await_answer(process, port)
            yield port
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read()[-_LOG_BYTES:].decode(errors="replace"))
            raise
        finally:
            process.terminate()
            process.wait()


@contextmanager
def shelf(checkpoint: CheckpointInfo, names: Sequence[str]) -> Iterator[Path]:
    """A cache directory that has one checkpoint under several names."""
    with tempfile.TemporaryDirectory() as root:
        for name in names:
            Path(root, name).mkdir(parents=True)
            Path(root, name, checkpoint.dtype).symlink_to(checkpoint.path)
        yield Path(root)


@contextmanager
def repeating(act: Callable[[], object]) -> Iterator[None]:
    """Meanwhile a thread does something over and over; what that raises is raised at the end."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.is_set():
            act()

    with ThreadPoolExecutor(1) as thread:
        repeated = thread.submit(repeat)
        try:
            yield
        finally:
            stop.set()
        repeated.result()


def new_prompt(choose: random.Random, words: int) -> str:
    """One that no KV cache knows the beginning of."""
    return " ".join(choose.choices(_WORDS, k=words))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _await_answer(process: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + _DEADLINE_S
    while True:
        try:
            return socket.create_connection((_HOST, port)).close()
        except OSError:
            assert process.poll() is None, "the daemon ended"
            assert time.monotonic() < until, "the daemon does not answer"
            time.sleep(0.1)

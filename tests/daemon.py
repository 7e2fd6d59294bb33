"""A real daemon in a process of its own, on a Unix socket."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

MODEL = "SmolLM2-135M-Instruct"
_DEADLINE_S = 60.0


def eventually(what: Callable[[], Any], deadline_s: float = _DEADLINE_S) -> Any:
    """The first true value of `what`; fails when there is none in time."""
    until = time.monotonic() + deadline_s
    while not (value := what()):
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)
    return value


def is_gone(process: psutil.Process) -> bool:
    """Whether it has ended; whoever inherited it may not have reaped it yet."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


class Daemon:
    """`lemonade-serve serve`, its HTTP client and its log."""

    def __init__(
        self, process: subprocess.Popen[bytes], socket: Path, log: Path, port: str | None = None
    ) -> None:
        self.process = process
        self.socket = socket
        self._log = log
        self.client = httpx.Client(
            transport=None if port else httpx.HTTPTransport(uds=str(socket)),
            base_url=f"http://127.0.0.1:{port}" if port else "http://daemon",
            timeout=60,
            trust_env=False,
        )

    @classmethod
    def start(cls, directory: Path, settings: dict[str, str]) -> Daemon:
        """On a Unix socket in the directory, unless the settings say a port."""
        socket, log = directory / "daemon.sock", directory / "daemon.log"
        port = settings.get("LEMONADE_SERVER__PORT")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LEMONADE_")}
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "lemonade_serve", "serve"],
                env={
                    **environment,
                    "LEMONADE_LOG__FORMAT": "json",
                    "LEMONADE_STATE_DIR": str(directory / "state"),
                    "LEMONADE_SERVER__UDS": "" if port else str(socket),
                    **settings,
                },
                stderr=stderr,
            )
        daemon = cls(process, socket, log, port)
        eventually(lambda: process.poll() is not None or daemon.logged("daemon_ready"))
        assert process.poll() is None, log.read_text()
        return daemon

    def log(self) -> list[dict[str, Any]]:
        """All complete lines so far."""
        lines = self._log.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines if line.startswith(b"{")]

    def log_text(self) -> str:
        return self._log.read_text()

    def logged(self, event: str, **fields: object) -> list[dict[str, Any]]:
        wanted = {"event": event, **fields}
        return [line for line in self.log() if wanted.items() <= line.items()]

    def workers(self) -> list[psutil.Process]:
        """Its child processes that serve a checkpoint."""
        return [
            child
            for child in psutil.Process(self.process.pid).children(recursive=True)
            if "lemonade_serve.worker" in child.cmdline()
        ]

    def health(self) -> dict[str, Any]:
        health: dict[str, Any] = self.client.get("/api/v0/health").json()
        return health

    def resident(self) -> dict[str, int]:
        """The models that can be used at once and their workers' pids, the last used first."""
        models = self.health()["all_models_loaded"]
        return {m["model_name"]: m["pid"] for m in models if m["state"] == "resident"}

    def complete(self, model: str, **more: Any) -> httpx.Response:
        """A short completion."""
        body = {"model": model, "prompt": "Hi", "max_tokens": 2, "ignore_eos": True}
        return self.client.post("/v1/completions", json={**body, **more})

    def use(self, *models: str) -> None:
        """One request to each, in turn."""
        for model in models:
            answer = self.complete(model)
            assert answer.status_code == 200, answer.text

    def waiting(self) -> list[str]:
        """The models for which there is no room yet."""
        models = self.health()["all_models_loaded"]
        return [model["model_name"] for model in models if model["state"] == "waiting"]

    def loads(self) -> Counter[str]:
        """How often each model was begun to load."""
        return Counter(line["model"] for line in self.logged("checkpoint_loading"))

    def departures(self, **fields: str) -> list[str]:
        """The models that left, in order."""
        return [line["model"] for line in self.logged("checkpoint_unloaded", **fields)]

    def model(self) -> dict[str, Any]:
        """What /health says of the one model that is loaded."""
        (model,) = self.health()["all_models_loaded"]
        return dict(model)

    def terminate(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_DEADLINE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def events(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The JSON events of a stream, up to `[DONE]`."""
        with self.client.stream("POST", path, json={**body, "stream": True}) as response:
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                if line == "data: [DONE]":
                    return
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

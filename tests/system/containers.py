"""Docker, its images and containers, by its own command line."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from tests.daemon import eventually

ROOT = Path(__file__).parents[2]
IMAGE = "lemonade-serve:cpu"
HARDENED = (
    *("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL"),
    "--security-opt=no-new-privileges",
)


def docker(*command: str, check: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["docker", *command], capture_output=True, text=True, check=False, cwd=ROOT, **more
    )
    assert not check or done.returncode == 0, (command, done.stdout, done.stderr)
    return done


def inspect(what: str, template: str) -> Any:
    return json.loads(docker("inspect", "--format", "{{json " + template + "}}", what).stdout)


class Container:
    """A daemon in a container, asked over a port of loopback."""

    def __init__(self, *options: str, command: Sequence[str] = (), **settings: str) -> None:
        variables = {"LEMONADE_SERVER__ALLOW_KEYLESS": "true", **settings}
        said = [part for name in variables for part in ("-e", f"{name}={variables[name]}")]
        started = docker(
            *("run", "--detach", *HARDENED, "--publish", "127.0.0.1::1234"),
            *(*options, *said, IMAGE, *command),
        )
        self.id = started.stdout.strip()
        port = docker("port", self.id, "1234/tcp").stdout.split(":")[-1].strip()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)

    @property
    def health(self) -> str:
        status: str = inspect(self.id, ".State.Health.Status")
        return status

    def answers(self) -> bool:
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            assert inspect(self.id, ".State.Running"), self.log()
            return False

    def await_answer(self) -> None:
        eventually(self.answers)

    def log(self) -> str:
        done = docker("logs", self.id)
        return done.stdout + done.stderr

    def logged(self, event: str) -> list[Mapping[str, Any]]:
        lines = [json.loads(line) for line in self.log().splitlines()]
        return [line for line in lines if line["event"] == event]

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        return docker("exec", self.id, *command, check=False)

    def events(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Of a streamed completion, up to `[DONE]`."""
        with self.client.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
            assert answer.status_code == 200, answer.read()
            for line in answer.iter_lines():
                if line == "data: [DONE]":
                    return
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    def remove(self) -> None:
        self.client.close()
        docker("rm", "--force", "--volumes", self.id)


SERVICES = {
    "lemonade": "LEMONADE_PORT",
    "prometheus": "PROMETHEUS_PORT",
    "alertmanager": "ALERTMANAGER_PORT",
}
"""What of the compose file is run in tests, and what sets its port. Grafana's image is large: its
dashboard has tests of its own."""


class Project:
    """A project of Compose's own, on ports of its own. `variables` are what the compose file takes;
    those of whoever runs the tests are not."""

    def __init__(self, name: str, *overlays: Path, **variables: str) -> None:
        ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
        self.urls = {service: f"http://127.0.0.1:{port}" for service, port in ports.items()}
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("LEMONADE_")},
            **{SERVICES[service]: str(port) for service, port in ports.items()},
            **variables,
            "COMPOSE_FILE": ":".join(map(str, [ROOT / "docker-compose.yml", *overlays])),
            "COMPOSE_PROJECT_NAME": f"{name}-{os.getpid()}",
        }

    def compose(self, *command: str) -> str:
        done = docker("compose", *command, env=self._environment)
        return done.stdout + done.stderr

    def up(self) -> None:
        self.compose("up", "--no-build", "--detach", "--wait", *SERVICES)

    def down(self) -> None:
        self.compose("down", "--volumes", "--timeout", "10")


def free_ports(number: int) -> list[int]:
    """Of loopback; nobody listens there now."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]

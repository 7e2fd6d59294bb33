"""A daemon, a Prometheus that scrapes it and an Alertmanager that hears of it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import httpx
import psutil

from tests.daemon import Daemon, eventually
from tests.system.programs import program
from tests.system.prometheus import Alertmanager, Prometheus

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
_OVERRIDE = "day.compose.yml"

SETTINGS = {
    "LEMONADE_DEVICES__CPU__MAX_MODELS": "1",
    "LEMONADE_POOL__MIN_RESIDENCY_S": "0",
    "LEMONADE_WORKER__MAX_QUEUE": "1",
    "LEMONADE_WORKER__SEQUENCE_SLOTS": "1",
    "LEMONADE_WORKER__THREADS": "1",
}
"""Room for one model; one request of it runs, one may wait."""

_SHORTER = (
    (re.compile(r"(interval|timeout): \d+s"), r"\1: 1s"),
    (re.compile(r"\bfor: \d+m"), "for: 1s"),
    (re.compile(r"\[5m\]"), "[1h]"),
    (re.compile(r"group_wait: \d+s"), "group_wait: 1s"),
)
"""What a test cannot wait for, and a window that is sure to have all of it."""


class Stack(Protocol):
    """What a day needs. The daemon has the models `a`, `b` and `broken`, and `SETTINGS`."""

    daemon: httpx.Client
    prometheus: Prometheus
    alertmanager: Alertmanager

    def kill(self, pid: int) -> None:
        """SIGKILL for a worker, by the number that the daemon says."""

    def stop(self) -> None:
        """End the daemon; nothing starts it again."""


def configure(target: Path, names: Mapping[str, str]) -> Path:
    """A copy of Prometheus' and Alertmanager's files at `target` that is as quick as a test, and
    with other names of hosts and places; returns `target`. Each name must be there."""
    shutil.copytree(DEPLOY / "prometheus", target)
    shutil.copy(DEPLOY / "alertmanager" / "alertmanager.yml", target)
    config = (target / "prometheus.yml").read_text()
    for name, other in names.items():
        assert name in config, name
        config = config.replace(name, other)
    (target / "prometheus.yml").write_text(config)
    for file in (*target.glob("*.yml"), *target.glob("rules/*.yml")):
        content = file.read_text()
        for pattern, shorter in _SHORTER:
            content = pattern.sub(shorter, content)
        file.write_text(content)
    return target


class HostStack:
    """Processes of this machine."""

    def __init__(self, daemon: Daemon, prometheus: str, alertmanager: str) -> None:
        self._process = daemon
        self.daemon = daemon.client
        self.prometheus = Prometheus(f"http://{prometheus}")
        self.alertmanager = Alertmanager(f"http://{alertmanager}")

    def kill(self, pid: int) -> None:
        assert pid in [worker.pid for worker in self._process.workers()]
        psutil.Process(pid).send_signal(signal.SIGKILL)

    def stop(self) -> None:
        assert self._process.terminate() == 0


@contextmanager
def host_stack(models: Path, directory: Path) -> Iterator[HostStack]:
    """Debian's programs with the files of `deploy`. The models are in the directory `models`."""
    programs = {
        "prometheus": program("prometheus", "Debian's prometheus"),
        "alertmanager": program("prometheus-alertmanager", "Debian's prometheus-alertmanager"),
    }
    port, *others = _free_ports(3)
    prometheus, alertmanager = (f"127.0.0.1:{port}" for port in others)
    names = {
        "lemonade:1234": f"127.0.0.1:{port}",
        "alertmanager:9093": alertmanager,
        "localhost:9090": prometheus,
        "/etc/prometheus": str(directory / "etc"),
    }
    etc = configure(directory / "etc", names)
    settings = {
        **SETTINGS,
        "LEMONADE_CACHE_DIR": str(models),
        "LEMONADE_SERVER__PORT": str(port),
    }
    with ExitStack() as running:
        daemon = Daemon.start(directory, settings)
        running.callback(daemon.kill)
        stack = HostStack(daemon, prometheus, alertmanager)
        running.callback(stack.prometheus.close)
        running.callback(stack.alertmanager.close)
        running.enter_context(
            _process(
                directory / "alertmanager",
                programs["alertmanager"],
                f"--config.file={etc / 'alertmanager.yml'}",
                f"--storage.path={directory / 'alertmanager'}",
                f"--web.listen-address={alertmanager}",
                "--cluster.listen-address=",
            )
        )
        running.enter_context(
            _process(
                directory / "prometheus",
                programs["prometheus"],
                f"--config.file={etc / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'prometheus'}",
                f"--web.listen-address={prometheus}",
            )
        )
        eventually(lambda: stack.prometheus.ready() and stack.alertmanager.ready())
        yield stack


class ComposeStack:
    """The services of the compose file, and `compose`, the command for them."""

    def __init__(self, compose: Callable[..., str], ports: Mapping[str, int]) -> None:
        self._compose = compose
        at = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        self.daemon = httpx.Client(base_url=at["lemonade"], timeout=60, trust_env=False)
        self.prometheus = Prometheus(at["prometheus"])
        self.alertmanager = Alertmanager(at["alertmanager"])

    def kill(self, pid: int) -> None:
        killing = f"import os; os.kill({pid}, 9)"
        self._compose("exec", "-T", "lemonade", "python", "-c", killing)

    def stop(self) -> None:
        self._compose("stop", "lemonade")


@contextmanager
def compose_stack(models: Path, directory: Path) -> Iterator[ComposeStack]:
    """`docker compose up` without Grafana. The daemon's image has been built."""
    docker = program("docker", "Docker")
    ports = dict(zip(("lemonade", "prometheus", "alertmanager"), _free_ports(3), strict=True))
    for place in (models, etc := configure(directory / "etc", {}), etc / "rules"):
        place.chmod(0o755)  # none of the containers is root
    environment = {
        **os.environ,
        **SETTINGS,
        **{f"{name.upper()}_PORT": str(port) for name, port in ports.items()},
        "COMPOSE_FILE": f"{ROOT / 'docker-compose.yml'}:{Path(__file__).with_name(_OVERRIDE)}",
        "COMPOSE_PROJECT_NAME": f"lemonade-day-{os.getpid()}",
        "LEMONADE_MODEL": "none",
        "DAY_MODELS": str(models),
        "DAY_CONFIGURATION": str(etc),
    }

    def compose(*command: str) -> str:
        ran = subprocess.run(
            [docker, "compose", *command],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    with ExitStack() as running:
        running.callback(compose, "down", "--volumes", "--timeout", "1")
        compose("up", "--no-build", "--detach", "--wait", *ports)
        stack = ComposeStack(compose, ports)
        for client in (stack.daemon, stack.prometheus, stack.alertmanager):
            running.callback(client.close)
        yield stack


@contextmanager
def _process(directory: Path, *command: str) -> Iterator[None]:
    directory.mkdir()
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log, env=os.environ)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _free_ports(number: int) -> list[int]:
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]

"""A daemon, a Prometheus that scrapes it and an Alertmanager that hears of it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import httpx
import psutil

from tests.daemon import Daemon, eventually
from tests.system.containers import ROOT, Project, free_ports
from tests.system.programs import program
from tests.system.prometheus import Alertmanager, Prometheus

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
    port, *others = free_ports(3)
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
    """The services of a project of Compose's."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self.daemon = httpx.Client(base_url=project.urls["lemonade"], timeout=60, trust_env=False)
        self.prometheus = Prometheus(project.urls["prometheus"])
        self.alertmanager = Alertmanager(project.urls["alertmanager"])

    def kill(self, pid: int) -> None:
        killing = f"import os; os.kill({pid}, 9)"
        self._project.compose("exec", "-T", "lemonade", "python", "-c", killing)

    def stop(self) -> None:
        self._project.compose("stop", "lemonade")


@contextmanager
def compose_stack(models: Path, directory: Path) -> Iterator[ComposeStack]:
    """`docker compose up` without Grafana. The daemon's image has been built."""
    for place in (models, etc := configure(directory / "etc", {}), etc / "rules"):
        place.chmod(0o755)  # none of the containers is root
    project = Project(
        "lemonade-day",
        Path(__file__).with_name(_OVERRIDE),
        **SETTINGS,
        LEMONADE_MODEL="none",
        DAY_MODELS=str(models),
        DAY_CONFIGURATION=str(etc),
    )
    with ExitStack() as running:
        running.callback(project.down)
        project.up()
        stack = ComposeStack(project)
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

"""A PostgreSQL server of our own, on a Unix socket, from Debian's package."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.daemon import eventually

_PROGRAMS = Path("/usr/lib/postgresql")
_USER = "postgres"
_DEADLINE_S = 60.0


class Postgres:
    """A server; `stop` and `start` it as often as you like, it keeps what was committed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._programs = _newest_programs()
        self._numbers = itertools.count(1)
        self._server: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Postgres]:
        """One with an empty cluster, gone in the end."""
        directory = Path(tempfile.mkdtemp(prefix="pg-"))  # a socket's path may be 107 bytes long
        server = cls(directory)
        try:
            server._initialise()
            server.start()
            yield server
        finally:
            server.stop()
            shutil.rmtree(directory)

    @property
    def log(self) -> Path:
        return self._directory / "log"

    def url(
        self, database: str = "postgres", *, user: str = _USER, password: str = "", schema: str = ""
    ) -> str:
        secret = f":{password}" if password else ""
        options = f"&options=-csearch_path%3D{schema}" if schema else ""
        return f"postgresql://{user}{secret}@/{database}?host={self._directory}{options}"

    def new_schema(self, *, password: str = "") -> str:
        """The URL of an empty one; making a database takes longer. Any password will do."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE SCHEMA {name}", self.url())
        return self.url(password=password, schema=name)

    def execute(self, sql: str, url: str) -> str:
        """What psql prints for it, the fields of a row between bars."""
        return self._call("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql)

    @contextmanager
    def connections_hang(self) -> Iterator[None]:
        """Those that there are now; new ones work."""
        others = "backend_type = 'client backend' AND pid <> pg_backend_pid()"
        listed = self.execute(f"SELECT pid FROM pg_stat_activity WHERE {others}", self.url())  # noqa: S608
        pids = [int(pid) for pid in listed.split()]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def start(self) -> None:
        where = ["-D", str(self._directory / "data"), "-k", str(self._directory)]
        command = self._command("postgres", *where, "-c", "listen_addresses=", "-c", "fsync=on")
        with self.log.open("ab") as log:
            self._server = subprocess.Popen(command, stderr=log, stdout=log)
        eventually(self._is_ready)

    def stop(self) -> None:
        """At once for its clients, cleanly for its files."""
        if self._server:
            self._server.send_signal(signal.SIGINT)
            self._server.wait(_DEADLINE_S)
            self._server = None

    def _initialise(self) -> None:
        data = self._directory / "data"
        data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(self._directory, _USER)
            shutil.chown(data, _USER)
        self._call("initdb", "-D", str(data), "-U", _USER, "-A", "trust", "-E", "UTF8", "-N")

    def _is_ready(self) -> bool:
        assert self._server is not None
        assert self._server.poll() is None, self.log.read_text()
        asked = self._command("pg_isready", "-q", "-h", str(self._directory))
        return subprocess.run(asked, check=False).returncode == 0

    def _call(self, *command: str) -> str:
        done = subprocess.run(
            self._command(*command), capture_output=True, check=False, text=True, cwd="/"
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def _command(self, program: str, *arguments: str) -> list[str]:
        """Run by root, as the user `postgres`: it refuses root. It dies with us."""
        command = [str(self._programs / program), *arguments]
        if os.geteuid() == 0:
            who = [f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups", "--pdeathsig=INT"]
            command = ["setpriv", *who, *command]
        return command


def _newest_programs() -> Path:
    found = sorted(_PROGRAMS.glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    assert found, "there is no PostgreSQL server here: apt-get install postgresql"
    return found[-1].parent

"""The job process: `python -m lemonade_serve.importers FD`, a socket to whoever started it.

When that one is gone the job is for nobody: it removes what it has made so far, and ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import NoReturn

from lemonade_serve import errors
from lemonade_serve.protocol.framing import Channel
from lemonade_serve.protocol.jobs import (
    ConvertModel,
    FetchFiles,
    FindExporter,
    ImportGguf,
    JobDone,
    JobFailed,
    ListRepository,
    Progress,
)
from lemonade_serve.protocol.messages import PROTOCOL_VERSION, Command, Hello, Result

_TRIES = 100
"""What a disk does not let go of then is swept by whoever makes a checkpoint next."""


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    channel.send(Hello(PROTOCOL_VERSION))
    job = channel.receive()
    if job is None:
        return
    into = Path(place) if (place := getattr(job, "into", "")) else None
    finished = threading.Event()
    threading.Thread(target=_watch, args=(channel, into, finished), daemon=True).start()
    try:
        result = _work(channel, job)
        if not isinstance(result, JobFailed):
            finished.set()  # from here on the directory is theirs
        channel.send(result)
    except ConnectionError:
        _abandon(into)


def _work(channel: Channel, job: Command) -> Result:
    def progress(stage: str, fraction: float) -> None:
        channel.send(Progress(stage, fraction))

    try:
        match job:
            case ImportGguf():
                from lemonade_serve.importers.gguf import import_gguf

                report = import_gguf(
                    Path(job.source), Path(job.into), dtype=job.dtype, progress=progress
                )
                return JobDone(report.name, report.dtype)
            case FindExporter(encoders):
                from lemonade_serve.importers.exporter import find_exporter

                return find_exporter(encoders=encoders)
            case ConvertModel():
                from lemonade_serve.importers.conversion import convert

                return convert(job, progress)
            case ListRepository():
                from lemonade_serve.importers.hub import list_repository

                return list_repository(job)
            case FetchFiles():
                from lemonade_serve.importers.fetching import fetch

                return fetch(job, progress)
            case _:
                raise TypeError(f"a job process cannot do {type(job).__name__}")
    except errors.LemonadeError as error:
        return JobFailed(error.code, error.message)


def _watch(channel: Channel, into: Path | None, finished: threading.Event) -> None:
    if channel.receive() is None and not finished.is_set():
        _abandon(into)


def _abandon(into: Path | None) -> NoReturn:
    for _ in range(_TRIES):  # the job may be adding files meanwhile
        if into and into.exists():
            shutil.rmtree(into, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    main()

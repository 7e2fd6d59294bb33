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
from lemonade_serve.protocol.messages import (
    PROTOCOL_VERSION,
    Hello,
    ImportGguf,
    JobDone,
    JobFailed,
    Progress,
)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    channel.send(Hello(PROTOCOL_VERSION))
    job = channel.receive()
    if job is None:
        return
    if not isinstance(job, ImportGguf):
        raise TypeError(f"a job process cannot do {type(job).__name__}")
    into, finished = Path(job.into), threading.Event()
    threading.Thread(target=_watch, args=(channel, into, finished), daemon=True).start()
    try:
        _work(channel, job, finished)
    except ConnectionError:
        _abandon(into)


def _work(channel: Channel, job: ImportGguf, finished: threading.Event) -> None:
    from lemonade_serve.importers.gguf import import_gguf

    try:
        report = import_gguf(
            Path(job.source),
            Path(job.into),
            dtype=job.dtype,
            progress=lambda stage, fraction: channel.send(Progress(stage, fraction)),
        )
    except errors.LemonadeError as error:
        channel.send(JobFailed(error.code, error.message))
    else:
        finished.set()  # from here on the directory is theirs
        channel.send(JobDone(report.name, report.dtype))


def _watch(channel: Channel, into: Path, finished: threading.Event) -> None:
    if channel.receive() is None and not finished.is_set():
        _abandon(into)


def _abandon(into: Path) -> NoReturn:
    while into.exists():  # the import may be adding files meanwhile
        shutil.rmtree(into, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    main()

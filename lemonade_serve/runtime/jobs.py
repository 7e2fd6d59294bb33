"""Runs import and export jobs, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable

from lemonade_serve import errors
from lemonade_serve.protocol.messages import ImportGguf, JobDone, JobFailed, Progress
from lemonade_serve.runtime.child import Child, ChildError


class ProcessJobRunner:
    """The `JobRunner` (domain/ports.py) of real processes."""

    def __init__(self, *, handshake_timeout_s: float, stop_timeout_s: float) -> None:
        self._handshake_timeout_s = handshake_timeout_s
        self._stop_timeout_s = stop_timeout_s

    async def run(self, job: ImportGguf, progress: Callable[[str, float], None]) -> JobDone:
        try:
            child = await Child.start(
                "lemonade_serve.importers", handshake_timeout_s=self._handshake_timeout_s
            )
        except (ChildError, OSError) as error:
            raise errors.JobFailed(f"the job did not start: {error}") from error
        try:
            child.send(job)
            while (report := await child.receive()) is not None:
                match report:
                    case Progress(stage, fraction):
                        progress(stage, fraction)
                    case JobDone():
                        return report
                    case JobFailed(code, message):
                        raise errors.from_code(code, message)
            how = await child.stop(self._stop_timeout_s)
            raise errors.JobFailed(f"the job's process died: {how}")
        finally:
            await child.stop(self._stop_timeout_s)

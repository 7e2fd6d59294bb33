"""Runs import and export jobs, each in a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from lemonade_serve import errors
from lemonade_serve.protocol.messages import ImportGguf, JobDone, JobFailed, Progress
from lemonade_serve.runtime.child import Child, ChildError


class ProcessJobRunner:
    """The `JobRunner` (domain/ports.py) of real processes."""

    def __init__(
        self, *, timeout_s: float, handshake_timeout_s: float, stop_timeout_s: float
    ) -> None:
        self._timeout_s = timeout_s
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
            async with asyncio.timeout(self._timeout_s):
                return await self._follow(child, job, progress)
        except TimeoutError:
            raise errors.JobFailed(f"the job took over {self._timeout_s:g} s") from None
        finally:
            await child.stop(self._stop_timeout_s)

    async def _follow(
        self, child: Child, job: ImportGguf, progress: Callable[[str, float], None]
    ) -> JobDone:
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

"""Runs jobs, each in a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from lemonade_serve import errors
from lemonade_serve.protocol.jobs import (
    ConvertModel,
    Exporter,
    Fetched,
    FetchFiles,
    FindExporter,
    ImportGguf,
    JobDone,
    JobFailed,
    ListRepository,
    Progress,
    Repository,
)
from lemonade_serve.protocol.messages import Job, Report
from lemonade_serve.runtime.child import Child, ChildError

_Kind = TypeVar("_Kind")
_HINTS: dict[type[Job], str] = {
    ConvertModel: "; perhaps it had too little memory (convert.memory_limit)"
}


class ProcessJobRunner:
    """The `JobRunner`, the `Hub` and the `Converter` (domain/ports.py) of real processes, of the
    interpreter `python` or our own."""

    def __init__(
        self,
        *,
        timeout_s: float,
        handshake_timeout_s: float,
        stop_timeout_s: float,
        python: str | None = None,
    ) -> None:
        self._python = python
        self._timeout_s = timeout_s
        self._handshake_timeout_s = handshake_timeout_s
        self._stop_timeout_s = stop_timeout_s

    async def run(self, job: ImportGguf, progress: Callable[[str, float], None]) -> JobDone:
        return _only(JobDone, await self._run(job, progress))

    async def exporter(self, *, encoders: bool) -> Exporter:
        return _only(Exporter, await self._run(FindExporter(encoders), _nobody))

    async def convert(self, job: ConvertModel, progress: Callable[[str, float], None]) -> JobDone:
        return _only(JobDone, await self._run(job, progress))

    async def list(self, job: ListRepository) -> Repository:
        return _only(Repository, await self._run(job, _nobody))

    async def fetch(self, job: FetchFiles, progress: Callable[[str, float], None]) -> Fetched:
        return _only(Fetched, await self._run(job, progress))

    async def _run(self, job: Job, progress: Callable[[str, float], None]) -> Report:
        try:
            child = await Child.start(
                "lemonade_serve.importers",
                handshake_timeout_s=self._handshake_timeout_s,
                python=self._python,
            )
        except (ChildError, OSError) as error:
            raise errors.JobFailed(f"the job did not start: {error}") from error
        try:
            async with asyncio.timeout(self._timeout_s):
                child.send(job)
                return await self._follow(child, progress, _HINTS.get(type(job), ""))
        except TimeoutError:
            raise errors.JobFailed(f"the job took over {self._timeout_s:g} s") from None
        finally:
            await child.stop(self._stop_timeout_s)

    async def _follow(
        self, child: Child, progress: Callable[[str, float], None], hint: str
    ) -> Report:
        """What it ends with; the `hint` is for one that dies."""
        while (report := await child.receive()) is not None:
            match report:
                case Progress(stage, fraction):
                    progress(stage, fraction)
                case JobFailed(code, message):
                    raise errors.from_code(code, message)
                case _:
                    return report
        how = await child.stop(self._stop_timeout_s)
        raise errors.JobFailed(f"the job's process died: {how}{hint}")


def _only(kind: type[_Kind], report: Report) -> _Kind:
    if not isinstance(report, kind):
        raise errors.JobFailed(f"the job said {type(report).__name__} in the end")
    return report


def _nobody(stage: str, fraction: float) -> None:
    """Wants to know."""

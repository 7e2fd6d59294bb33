"""Log lines: JSON for machines, colours for people. Never a prompt, never a completion."""

from __future__ import annotations

import enum
import logging
import re
import sys

import structlog

from lemonade_serve.domain.events import (
    CheckpointLoaded,
    CheckpointLoadFailed,
    CheckpointLoading,
    CheckpointUnloaded,
    Departure,
    Event,
)
from lemonade_serve.settings import Log

_WORD = re.compile(r"(?<!^)(?=[A-Z])")

_TRACEBACK = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)
"""The locals of a frame may be somebody's prompt."""


def configure_logging(settings: Log) -> None:
    """Everything goes to standard error: our own lines and those of the libraries."""
    people = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if people
        else [_TRACEBACK, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(settings.level),
        cache_logger_on_first_use=False,  # or a logger would keep its level over a reload
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    logging.basicConfig(handlers=[handler], level=settings.level.upper(), force=True)
    # httpx says each request at info, which is the access log's business; alembic its plugins
    for talkative in ("httpx", "alembic"):
        logging.getLogger(talkative).setLevel(logging.WARNING)


_TOLD = CheckpointLoading | CheckpointLoaded | CheckpointLoadFailed | CheckpointUnloaded


class LogObserver:
    """Writes what becomes of checkpoints, a line an event. Of requests the access log tells."""

    def __init__(self) -> None:
        self._log = structlog.get_logger()

    def observe(self, event: Event) -> None:
        if not isinstance(event, _TOLD):
            return
        fields = {name: _plain(getattr(event, name)) for name in event.__struct_fields__}
        name = _WORD.sub("_", type(event).__name__).lower()
        getattr(self._log, "warning" if _is_alarming(event) else "info")(name, **fields)


def _is_alarming(event: Event) -> bool:
    match event:
        case CheckpointLoadFailed() | CheckpointUnloaded(reason=Departure.CRASH):
            return True
        case _:
            return False


def _plain(value: object) -> object:
    return value.value if isinstance(value, enum.Enum) else value

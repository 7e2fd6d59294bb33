"""A bar of progress on standard error, for what goes on long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """Seen from the first progress on: an installer may show its own before."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task("starting", total=1.0)

    def show(stage: str, done: float) -> None:
        bar.start()
        bar.update(task, description=stage, completed=done)

    try:
        yield show
    finally:
        bar.stop()

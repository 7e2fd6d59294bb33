"""One observer that is several."""

from __future__ import annotations

from lemonade_serve.domain.events import Event
from lemonade_serve.telemetry.observers import Observers
from tests.unit.telemetry.house import finished, loaded


def test_each_observer_sees_each_event_in_order() -> None:
    class Notebook:
        def __init__(self, name: str) -> None:
            self._name = name

        def observe(self, event: Event) -> None:
            seen.append((self._name, event))

    seen: list[tuple[str, Event]] = []
    first, second = loaded(), finished()
    both = Observers(Notebook("a"), Notebook("b"))
    both.observe(first)
    both.observe(second)
    assert seen == [("a", first), ("b", first), ("a", second), ("b", second)]


def test_nobody_may_be_there() -> None:
    Observers().observe(loaded())

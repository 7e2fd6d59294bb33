"""Many observers where one is asked for."""

from __future__ import annotations

from lemonade_serve.domain.events import Event
from lemonade_serve.domain.ports import Observer


class Observers:
    """Hands each event to all of them, in their order."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def observe(self, event: Event) -> None:
        for observer in self._observers:
            observer.observe(event)

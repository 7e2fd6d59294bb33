"""What `/stats` says."""

from __future__ import annotations

from lemonade_serve.domain.events import Event, Outcome, RequestFinished


class StatsObserver:
    """Remembers the request that finished last, of each model and of all (`LastRequests`).

    Finished is what came to its end (`Outcome.OK`): one that failed, was cancelled or was refused
    has no figures that anyone could compare, and changes nothing. Events name only models that the
    catalogue knew, so it holds no more than there are, less those that it was told to forget.
    """

    def __init__(self) -> None:
        self._last: RequestFinished | None = None
        self._by_model: dict[str, RequestFinished] = {}

    def observe(self, event: Event) -> None:
        if isinstance(event, RequestFinished) and event.outcome is Outcome.OK:
            self._last = self._by_model[event.model] = event

    def last(self, model: str | None = None) -> RequestFinished | None:
        return self._last if model is None else self._by_model.get(model)

    def forget(self, model: str) -> None:
        """A model that is gone. The last request of all stays what it was."""
        self._by_model.pop(model, None)

"""What `/stats` says."""

from __future__ import annotations

from lemonade_serve.domain.events import CatalogueListed, Event, Outcome, RequestFinished


class StatsObserver:
    """Remembers the request that finished last, of each model and of all (`LastRequests`).

    Finished is what came to its end (`Outcome.OK`): one that failed, was cancelled or was refused
    has no figures that anyone could compare, and changes nothing. Models that the catalogue has not
    any more are forgotten; the last request of all stays what it was. What generated nothing, such
    as an embedding, is the last one of its own model only.
    """

    def __init__(self) -> None:
        self._last: RequestFinished | None = None
        self._by_model: dict[str, RequestFinished] = {}

    def observe(self, event: Event) -> None:
        match event:
            case RequestFinished(outcome=Outcome.OK):
                self._by_model[event.model] = event
                self._last = event if event.generates else self._last
            case CatalogueListed(models=models):
                self._by_model = {m: last for m, last in self._by_model.items() if m in models}

    def last(self, model: str | None = None) -> RequestFinished | None:
        return self._last if model is None else self._by_model.get(model)

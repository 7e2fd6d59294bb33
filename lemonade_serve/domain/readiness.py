"""Whether new requests are wanted, as probes ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lemonade_serve import errors

Reasons = Callable[[], Sequence[str]]
"""Why it is not ready, in words for people, with no name of a model or a client in them; nothing
where all is well. Asked every few seconds; must not block."""


class Readiness:
    """Not ready while the models of the start load, while draining, and for `reasons`.

    Requests are answered in the meantime, if they can be: it is for whoever shares them out.
    """

    def __init__(self, *reasons: Reasons) -> None:
        self.starting = True
        """Until what is pinned or to be preloaded has been loaded, or could not be."""
        self.draining = False
        self._reasons = reasons

    def check(self) -> None:
        """Raises Draining or NotReady."""
        if self.draining:
            raise errors.Draining
        if self.starting:
            raise errors.NotReady("the models of the start are still loading")
        if said := [reason for reasons in self._reasons for reason in reasons()]:
            raise errors.NotReady("; ".join(said))

"""What services do alike, whatever it is that they give: turn requests away, and end them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

from lemonade_serve import errors
from lemonade_serve.domain.events import RequestRefused
from lemonade_serve.domain.placement import Placement
from lemonade_serve.domain.ports import Clock, Observer


class Request(Protocol):
    """What all of them say. `arrived` is on the service's clock, `endpoint` its route's short
    name, `traceparent` for traces."""

    @property
    def placement(self) -> Placement: ...
    @property
    def arrived(self) -> float: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def traceparent(self) -> str: ...


class Underway(Protocol):
    """A request that has been taken. `started_at`: when an engine began with it."""

    started_at: float | None

    def fail(self, error: errors.LemonadeError) -> None:
        """End it, with an error for whoever waits."""


RequestT = TypeVar("RequestT", bound=Request)
UnderwayT = TypeVar("UnderwayT", bound=Underway)


class Service(ABC, Generic[RequestT, UnderwayT]):
    """Begins requests, and knows those that have not come to their end."""

    def __init__(self, observer: Observer, clock: Clock) -> None:
        self._observer = observer
        self._clock = clock
        self._running: set[UnderwayT] = set()

    async def begin(self, request: RequestT) -> UnderwayT:
        """Start a request. Raises at once what is wrong with it before its model is loaded, or
        what no waiting would mend: InvalidRequest, ModelNotFound, NotAllowed, StoreUnavailable,
        QueueFull, SlotsPinned, NoCapacity, Draining; the rest comes out of what is returned."""
        try:
            return await self._begin(request)
        except errors.LemonadeError as error:
            said = request.placement.model
            refused = RequestRefused.by(
                error,
                model=said and said.partition(":")[0],  # counted for all dtypes and adapters
                endpoint=request.endpoint,
                duration_s=max(0.0, self._clock() - request.arrived),
                traceparent=request.traceparent,
            )
            self._observer.observe(refused)
            raise

    def abort(self, error: errors.LemonadeError) -> None:
        """End everything that runs with `error`."""
        for underway in list(self._running):
            underway.fail(error)

    def give_up_waiting(self, error: errors.LemonadeError) -> None:
        """End with `error` what no engine has begun with."""
        for underway in list(self._running):
            if underway.started_at is None:
                underway.fail(error)

    @abstractmethod
    async def _begin(self, request: RequestT) -> UnderwayT:
        """Find its checkpoint, lease it, and let it run; it is in `_running` until it ends."""

"""Who is next: a queue that is fair to clients."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class _Client(Generic[T]):
    """Its requests, in order of arrival, and when the first of them has its turn."""

    def __init__(self, turn: float, weight: float) -> None:
        self.turn = turn
        self.weight = weight
        self.requests: dict[int, T] = {}


class Waiting(Generic[T]):
    """Requests in the order in which they shall begin.

    Clients take turns: one of weight 2 has two requests begin where another has one. A client that
    was away has nothing saved up. Source: start-time fair queueing (Goyal et al., 1996), each
    request a packet of length 1. But its clock goes on as that of weighted fair queueing (Demers et
    al., 1989), a turn whenever all who waited could have had one: newcomers without end, each of
    them a client of its own, keep nobody from a second turn, and their debts are forgotten.
    """

    def __init__(self) -> None:
        self._clients: dict[str, _Client[T]] = {}
        """Those that have a request, or had one begin and not yet paid for it in turns."""
        self._now = 0.0
        """On a clock that goes by turns, not by time."""
        self._pace = 0.0
        """So far it goes on until the next request begins."""

    def __bool__(self) -> bool:
        return any(client.requests for client in self._clients.values())

    def enter(self, request: int, thing: T, name: str, weight: float) -> None:
        """The last of its client's."""
        client = self._clients.get(name) or _Client(self._now, weight)
        if not client.requests:  # from now on it waits, behind those whose turn is its own
            self._clients.pop(name, None)
            self._clients[name] = client
            client.turn = max(self._now, client.turn)
        client.weight = weight
        client.requests[request] = thing

    def first(self) -> T:
        """Whose turn it is; there must be somebody."""
        return next(iter(self._next().requests.values()))

    def pop(self) -> T:
        """The first, which leaves."""
        client = self._next()
        self._now = max(self._now + self._pace, client.turn)
        self._pace = 1 / sum(c.weight for c in self._clients.values() if c.requests)
        client.turn += 1 / client.weight
        thing = client.requests.pop(next(iter(client.requests)))
        self._forget()
        return thing

    def leave(self, request: int) -> None:
        """It does not want its turn any more; unknown ones are ignored."""
        for client in self._clients.values():
            client.requests.pop(request, None)
        self._forget()

    def order(self) -> list[int]:
        """All that wait, the next one first."""
        turns = [
            (client.turn + n / client.weight, request)
            for client in self._clients.values()
            for n, request in enumerate(client.requests)
        ]
        return [request for _, request in sorted(turns, key=lambda turn: turn[0])]

    def _next(self) -> _Client[T]:
        """The client whose turn it is; of several, the one that has waited longest."""
        return min((c for c in self._clients.values() if c.requests), key=lambda c: c.turn)

    def _forget(self) -> None:
        self._clients = {
            name: client
            for name, client in self._clients.items()
            if client.requests or client.turn > self._now
        }

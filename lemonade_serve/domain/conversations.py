"""Answers that are kept a while, so that a later request can go on from them."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from lemonade_serve.errors import ResponseNotFound
from lemonade_serve.protocol.messages import Message

_encoder = msgspec.json.Encoder()


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One answer. `messages` are all that a request gets that goes on from it, the answer
    included; `answer` and `items` are JSON, as a dialect shows the answer and what it answers."""

    id: str
    messages: tuple[Message, ...]
    answer: bytes
    items: bytes

    @property
    def size_bytes(self) -> int:
        """What it is charged. What it shares with the turns before it is charged to each."""
        return len(self.answer) + len(self.items) + len(_encoder.encode(self.messages))


class _Kept(msgspec.Struct, frozen=True):
    turn: Turn
    until: float
    size_bytes: int


class Conversations:
    """The turns of all clients, each its own. What was not used for longest goes first.

    Every call takes the time, in seconds; a turn goes `keep_s` after it was kept, used or not.
    """

    def __init__(self, *, keep_s: float, max_kept: int, max_kept_bytes: int) -> None:
        self._keep_s = keep_s
        self._max_kept = max_kept
        self._max_kept_bytes = max_kept_bytes
        self._kept: dict[tuple[str, str], _Kept] = {}
        """By client and id, in the order in which their time is over."""
        self._used: OrderedDict[tuple[str, str], None] = OrderedDict()
        """The one that was used last at the end."""
        self.kept_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, client: str, turn: Turn, now: float) -> None:
        """Others make room for it; one that is larger than all the room is not kept, and takes
        none from them."""
        self.expire(now)
        size = turn.size_bytes
        if size > self._max_kept_bytes or not self._max_kept:
            return
        while len(self._kept) >= self._max_kept or self.kept_bytes + size > self._max_kept_bytes:
            self._drop(next(iter(self._used)))
        self._kept[client, turn.id] = _Kept(turn, now + self._keep_s, size)
        self._used[client, turn.id] = None
        self.kept_bytes += size

    def find(self, client: str, id: str, now: float) -> Turn:
        """Raises ResponseNotFound for what is gone, never was, or is another client's."""
        self.expire(now)
        if (client, id) not in self._kept:
            raise ResponseNotFound(f"there is no response {id!r}, or none any more")
        self._used.move_to_end((client, id))
        return self._kept[client, id].turn

    def forget(self, client: str, id: str, now: float) -> None:
        """Raises as `find` does."""
        self.find(client, id, now)
        self._drop((client, id))

    def expire(self, now: float) -> float:
        """Let go of what has been here long enough. In so many seconds there may be more."""
        while self._kept:
            key, kept = next(iter(self._kept.items()))
            if kept.until > now:
                return kept.until - now
            self._drop(key)
        return self._keep_s

    def _drop(self, key: tuple[str, str]) -> None:
        self.kept_bytes -= self._kept.pop(key).size_bytes
        del self._used[key]

"""How requests wait for their turn."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Turns(msgspec.Struct, frozen=True, kw_only=True):
    """How requests wait for theirs: for so many seconds at most, and by client. One of weight 2
    has two where others, of weight 1, have one."""

    timeout_s: float
    client_weights: Mapping[str, float] = {}

    def of(self, client: str) -> tuple[str, float]:
        """Whose turns a client has, and their weight: those who share a key share its turns."""
        holder = client.partition("/")[0]
        return holder, self.client_weights.get(holder, 1.0)

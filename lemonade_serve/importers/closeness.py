"""How near an encoder's checkpoint is to what it was made of."""

from __future__ import annotations

import msgspec


class Closeness(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint against its source, over some texts. `error` is the largest of any: 1 less the
    cosine of both vectors, the mean of a text's; of a reranker the difference of both scores."""

    texts: int
    error: float

"""Who is asking."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping

from lemonade_serve import errors
from lemonade_serve.settings.schema import CLIENT_NAME

ANYBODY = "default"
"""The client of a request that says nothing about itself."""

Headers = Iterable[tuple[bytes, bytes]]
"""As ASGI has them: names in lower case."""


class Clients:
    """The API keys by client; where there are none, everybody may ask and say who they are."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._digests: Mapping[str, bytes] = {}
        self.replace(keys)

    def replace(self, keys: Mapping[str, str]) -> bool:
        """From now on these are the keys, and no others; returns whether that changes anything."""
        before, self._digests = self._digests, {n: _digest(k.encode()) for n, k in keys.items()}
        return before != self._digests

    @property
    def known(self) -> bool:
        """Whether a key is needed."""
        return bool(self._digests)

    def identify(self, headers: Headers) -> str:
        """The name of the client. With a key, `X-Client-Id` names a client under the key's own:
        `name/id`, where neither part can have a `/`.

        Raises Unauthenticated, and InvalidRequest for an `X-Client-Id` that cannot be one.
        """
        said = dict(reversed([*headers]))  # the first of several counts
        holder = self._holder(said.get(b"authorization", b"")) if self.known else None
        if (given := said.get(b"x-client-id")) is None:
            return holder or ANYBODY
        name = _client_id(given.decode("latin-1"))
        return f"{holder}/{name}" if holder else name

    def _holder(self, authorization: bytes) -> str:
        """Whose key it is. Every key is compared, whichever is right."""
        scheme, _, key = authorization.partition(b" ")
        given = _digest(key.strip())
        holders = [n for n, known in self._digests.items() if hmac.compare_digest(known, given)]
        if not holders or scheme.lower() != b"bearer" or not key.strip():
            raise errors.Unauthenticated
        return holders[0]


def _client_id(given: str) -> str:
    if not re.fullmatch(CLIENT_NAME, given):
        raise errors.InvalidRequest(
            "X-Client-Id is 1 to 64 letters, digits, '.', '_', ':' or '-'", param="X-Client-Id"
        )
    return given


def _digest(key: bytes) -> bytes:
    """All of one length, so that comparing takes the same time whatever was sent."""
    return hashlib.sha256(key).digest()

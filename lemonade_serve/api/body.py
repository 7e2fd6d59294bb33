"""A request's body, read strictly.

Litestar reads the `data` of a handler as it does a query, where "0.5" is a number and 0 is false.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import msgspec
from litestar import Request

from lemonade_serve import errors
from lemonade_serve.api.errors import invalid_body

_Kind = TypeVar("_Kind", bound=msgspec.Struct)

_NO_BODY = "the request has no body: send a JSON object"


class Body(Generic[_Kind]):
    """What one route takes. An `optional` one may be left out, or null. `examples` are by title."""

    def __init__(
        self,
        kind: type[_Kind],
        examples: Mapping[str, Mapping[str, Any]],
        *,
        optional: bool = False,
    ) -> None:
        self.kind = kind
        self.optional = optional
        self.examples = examples

    @property
    def accepted(self) -> Any:
        """The type of what may be sent."""
        return self.kind | None if self.optional else self.kind

    async def read(self, request: Request[Any, Any, Any]) -> _Kind:
        """Raises InvalidRequest, naming the field that is wrong."""
        if not (sent := await request.body()):
            if self.optional:
                return self.kind()
            raise errors.InvalidRequest(_NO_BODY)
        try:
            read: _Kind | None = msgspec.json.decode(sent, type=self.accepted)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise invalid_body(error) from error
        return read or self.kind()

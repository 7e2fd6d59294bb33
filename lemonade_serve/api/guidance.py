"""What an answer has to be, as clients say it in OpenAI's words."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from lemonade_serve import errors
from lemonade_serve.domain.completion import Guidance

_ANY_OBJECT: dict[str, Any] = {"type": "object"}


class Schema(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A JSON Schema with a name. Without `schema`, any JSON object will do. `strict` is always so
    here; name and description are for people."""

    name: Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class Text(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="type",
    tag="text",
):
    """Anything."""


class JsonObject(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="type",
    tag="json_object",
):
    """Any JSON object."""


def guidance_of(
    format: Text | JsonObject | Schema | None = None,
    *,
    regex: str | None = None,
    grammar: str | None = None,
) -> Guidance | None:
    """None where the answer may be anything. Raises InvalidRequest if it has to be two things."""
    wanted = [
        _of_format(format),
        None if regex is None else Guidance("regex", regex),
        None if grammar is None else Guidance("lark", grammar),
    ]
    given = [guidance for guidance in wanted if guidance is not None]
    if len(given) > 1:
        field = "grammar" if grammar is not None else "regex"
        raise errors.InvalidRequest(
            "an answer has one form: response_format, regex and grammar exclude each other",
            param=field,
        )
    return given[0] if given else None


def _of_format(format: Text | JsonObject | Schema | None) -> Guidance | None:
    match format:
        case None | Text():
            return None
        case JsonObject():
            schema = _ANY_OBJECT
        case Schema():
            schema = _ANY_OBJECT if format.schema is None else format.schema
    return Guidance("json_schema", msgspec.json.encode(schema).decode())

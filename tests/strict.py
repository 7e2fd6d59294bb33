"""JSON against the models of the `openai` package, which by themselves let nearly anything pass."""

from __future__ import annotations

import types
from collections.abc import Collection, Iterator
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import pydantic

MODEL_EXTRAS = (
    *("root", "parent", "adapters", "capabilities", "context_length", "dtype", "device", "size"),
    "revision",
)
"""What is said of a model besides what OpenAI says."""

_Kind = TypeVar("_Kind")


def strictly(kind: type[_Kind], body: object, *, beyond: Collection[str] = ()) -> _Kind:
    """`body`, read as a model, or as one of a union of them.

    Fails, saying where, when a field is missing, of another type or unknown to the model, at any
    depth; the names in `beyond` may be there all the same, at the top.
    """
    if beyond:
        assert isinstance(body, dict)
        body = {name: value for name, value in body.items() if name not in beyond}
    if wrong := _wrong(kind, body, "$"):
        raise AssertionError("\n".join(wrong))
    read: _Kind = pydantic.TypeAdapter(kind).validate_python(body)
    return read


def _wrong(kind: Any, value: object, place: str) -> list[str]:
    """What is wrong with it, if anything, and where."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _wrong(arguments[0], value, place)
    if origin in (Union, types.UnionType):
        return _of_several([_wrong(one, value, place) for one in arguments])
    if origin in (list, dict) and isinstance(value, origin):
        return [
            wrong for at, one in _inside(value) for wrong in _wrong(arguments[-1], one, place + at)
        ]
    if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
        return _of_model(kind, value, place)
    try:
        pydantic.TypeAdapter(kind).validate_python(value, strict=True)
    except pydantic.ValidationError as error:
        return [f"{place}: {value!r}: {error.errors()[0]['msg']}"]
    return []


def _inside(value: list[object] | dict[str, object]) -> Iterator[tuple[str, object]]:
    if isinstance(value, list):
        yield from ((f"[{index}]", one) for index, one in enumerate(value))
    else:
        yield from ((f".{name}", one) for name, one in value.items())


def _of_several(attempts: list[list[str]]) -> list[str]:
    """Nothing, if one of a union fits; else the words of the one that was meant."""
    return max(attempts, key=_nearness)


def _nearness(wrong: list[str]) -> tuple[bool, bool, int]:
    places = [one.partition(": ")[0] for one in wrong]
    depths = [place.count(".") + place.count("[") for place in places]
    return not wrong, not any(place.endswith(".type") for place in places), max(depths, default=0)


def _of_model(kind: type[pydantic.BaseModel], value: object, place: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{place}: {value!r} is no {kind.__name__}"]
    fields = {field.alias or name: field for name, field in kind.model_fields.items()}
    wrong = [f"{place}.{name}: {kind.__name__} has none" for name in value if name not in fields]
    for name, field in fields.items():
        if name in value:
            wrong += _wrong(field.annotation, value[name], f"{place}.{name}")
        elif field.is_required():
            wrong.append(f"{place}.{name}: missing")
    return wrong

"""What stands behind a model's name."""

from __future__ import annotations

import pytest

from lemonade_serve.domain.names import ModelName, can_name_adapter, joined, parse
from lemonade_serve.errors import InvalidRequest


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("small", ModelName("small")),
        ("org/small@v1", ModelName("org/small@v1")),
        ("small:int8", ModelName("small", "int8")),
        ("small:pirate", ModelName("small", "auto", "pirate")),
        ("small:int8:pirate", ModelName("small", "int8", "pirate")),
        ("org/small@v1:v1.2_b-c", ModelName("org/small@v1", "auto", "v1.2_b-c")),
        (":pirate", ModelName("", "auto", "pirate")),  # the catalogue knows no such name
    ],
)
def test_a_dtype_and_an_adapter_may_follow_a_name(said: str, meant: ModelName) -> None:
    assert parse(said) == meant


@pytest.mark.parametrize(
    "said",
    [
        *("small:", "small::", "small:int8:", "small:a:b", "small:pirate:int8:x", "small:../x"),
        *("small:a/b", "small:.hidden", "small:a b", "small:int8:a:b", "small:é"),
    ],
)
def test_anything_else_is_refused(said: str) -> None:
    with pytest.raises(InvalidRequest, match="names no model") as raised:
        parse(said)
    assert raised.value.param == "model"


@pytest.mark.parametrize(
    "name", ["int4", "auto", "npu", "cpu", "hybrid", "", ".a", "a b", "a:b", "a/b", "-a"]
)
def test_an_adapter_is_called_by_none_of_the_other_words(name: str) -> None:
    assert not can_name_adapter(name)


def test_a_model_with_an_adapter_is_called_by_both() -> None:
    assert can_name_adapter("pirate")
    assert parse(joined("small", "pirate")).adapter == "pirate"
    assert joined("small", None) == "small"

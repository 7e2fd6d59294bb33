"""Names and dtypes."""

from __future__ import annotations

import pytest

from lemonade_serve import errors
from lemonade_serve.domain.checkpoint import check_name, choose_dtype
from tests.fakes import checkpoint


@pytest.mark.parametrize(
    ("at_most", "sequences", "tokens"), [(50, 2, 50), (200, 2, 200), (250, 2, 200), (250, 3, 250)]
)
def test_a_kv_cache_is_no_larger_than_its_sequences_can_fill(
    at_most: int, sequences: int, tokens: int
) -> None:
    info = checkpoint(context_length=100)
    assert info.kv_tokens(at_most=at_most, sequences=sequences) == tokens


@pytest.mark.parametrize("name", ["a", "SmolLM2-135M", "org/model", "0.5B_v1.2", "a/0"])
def test_a_name_may_be(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "a/",
        "/a",
        "a/b/c",
        ".",
        "..",
        "../a",
        "a/..",
        "a/.b",
        "-a",
        "a b",
        "a\n",
        "é",
        "a\0",
    ],
)
def test_a_name_may_not_be(name: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="cannot name a model") as raised:
        check_name(name)
    assert raised.value.param == "model"


def test_the_dtype_asked_for_is_used() -> None:
    found = [checkpoint(dtype=dtype) for dtype in ("int4", "fp32")]
    assert choose_dtype("fp32", found).dtype == "fp32"


@pytest.mark.parametrize(
    ("dtypes", "chosen"),
    [
        (["fp32", "int4", "int8"], "int4"),
        (["fp32", "bf16", "fp16", "int8"], "int8"),
        (["fp32", "bf16", "fp16"], "fp16"),
        (["fp32", "bf16"], "bf16"),
        (["fp32"], "fp32"),
        (["int2"], "int2"),
        (["int2", "fp32"], "fp32"),
    ],
)
def test_auto_means_the_smallest_that_is_there(dtypes: list[str], chosen: str) -> None:
    assert choose_dtype("auto", [checkpoint(dtype=dtype) for dtype in dtypes]).dtype == chosen


@pytest.mark.parametrize("dtype", ["int4", "nonsense"])
def test_a_dtype_that_is_not_there_is_an_error_that_lists_what_is(dtype: str) -> None:
    found = [checkpoint(dtype="fp32"), checkpoint(dtype="bf16")]
    with pytest.raises(errors.DeviceUnavailable, match="it has: bf16, fp32") as raised:
        choose_dtype(dtype, found)
    assert raised.value.param == "dtype"

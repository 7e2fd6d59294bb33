"""How long a model stays after a request."""

from __future__ import annotations

import msgspec
import pytest

from lemonade_serve import errors
from lemonade_serve.api.keep_alive import KeepAlive, Words, seconds


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (300, 300),
        (0, 0),
        (-1, -1),
        (1.5, 1.5),
        ("300", 300),
        ("300s", 300),
        ("5m", 300),
        ("1.5h", 5400),
        ("250ms", 0.25),
        ("-1", -1),
        ("-1m", -60),
        ("0", 0),
        ("999999999h", 3.6e12),
    ],
)
def test_seconds_or_words_are_seconds(given: float | str, expected: float) -> None:
    body = msgspec.json.encode(given)
    assert seconds(msgspec.json.decode(body, type=KeepAlive)) == pytest.approx(expected)


def test_nothing_said_is_nothing_said() -> None:
    assert seconds(None) is None


@pytest.mark.parametrize(
    "given", ["", "soon", "5 m", "5w", "m", "1h30m", "--1", "1e9", "9" * 10, "٣", True, [], 1e10]
)
def test_anything_else_is_refused(given: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(given), type=KeepAlive)


def test_words_are_what_a_query_takes() -> None:
    assert seconds(msgspec.convert("10m", Words)) == 600


@pytest.mark.parametrize("words", ["soon", "5m\n", "", "1h30m"])
def test_words_that_nobody_checked_before_are_refused_by_name(words: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="keep_alive") as raised:
        seconds(words)
    assert raised.value.param == "keep_alive"

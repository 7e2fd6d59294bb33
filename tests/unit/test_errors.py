"""The error tree, and how errors cross a process border."""

from __future__ import annotations

import errno
import inspect
from pathlib import Path

import pytest

from lemonade_serve import errors

TREE = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.LemonadeError)
]
NAMED = [kind for kind in TREE if kind is not errors.Retryable]


@pytest.mark.parametrize("kind", NAMED, ids=lambda kind: kind.__name__)
def test_an_error_crosses_by_its_code(kind: type[errors.LemonadeError]) -> None:
    error = errors.from_code(kind.code, "what happened", "temperature")
    assert type(error) is kind
    assert (error.message, error.param) == ("what happened", "temperature")


def test_a_code_that_nobody_knows_is_a_plain_error() -> None:
    error = errors.from_code("from_the_future", "what happened")
    assert type(error) is errors.LemonadeError
    assert str(error) == "what happened"


def test_no_two_errors_share_a_code() -> None:
    codes = [kind.code for kind in NAMED]
    assert sorted(set(codes)) == sorted(codes)


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_an_error_says_what_its_docstring_says_unless_told_otherwise(
    kind: type[errors.LemonadeError],
) -> None:
    assert kind().message == str(kind()) == inspect.getdoc(kind)
    assert kind("more").message == "more"


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_the_drawing_of_the_tree_has_every_error(kind: type[errors.LemonadeError]) -> None:
    assert kind is errors.Retryable or kind.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_called_by_its_place(number: int) -> None:
    full = errors.DiskFull.by(OSError(number, "?"), Path("/data"))
    assert full is not None
    assert full.message == "the disk of /data is full"
    assert errors.DiskFull.by(OSError(errno.EACCES, "?"), Path("/data")) is None

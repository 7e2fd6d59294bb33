"""When new requests are wanted."""

from __future__ import annotations

import pytest

from lemonade_serve import errors
from lemonade_serve.domain.readiness import Readiness


def started(*reasons: list[str]) -> Readiness:
    readiness = Readiness(*(lambda said=said: said for said in reasons))  # type: ignore[misc]
    readiness.starting = False
    return readiness


def test_it_is_not_ready_before_the_models_of_the_start_are_there() -> None:
    readiness = Readiness()
    with pytest.raises(errors.NotReady, match="still loading"):
        readiness.check()
    readiness.starting = False
    readiness.check()


def test_it_is_not_ready_for_any_reason_that_somebody_has() -> None:
    started([], []).check()
    with pytest.raises(errors.NotReady, match=r"^the NPU is gone; and so is the CPU$"):
        started(["the NPU is gone"], [], ["and so is the CPU"]).check()


def test_draining_is_the_reason_whatever_else_is() -> None:
    readiness = started(["the NPU is gone"])
    readiness.starting = readiness.draining = True
    with pytest.raises(errors.Draining):
        readiness.check()

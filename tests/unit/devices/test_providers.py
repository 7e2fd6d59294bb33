"""The probe process: the real one, and some that do what a bad driver does."""

from __future__ import annotations

import sys

import pytest

from lemonade_serve.devices.providers import ProbeFailed, Providers, probe_providers, same


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def reason(code: str, *, timeout_s: float = 30.0) -> str:
    found = probe_providers(command=python(code), timeout_s=timeout_s)
    assert isinstance(found, ProbeFailed)
    return found.reason


def test_the_real_probe_finds_the_cpu() -> None:
    found = probe_providers()
    assert isinstance(found, Providers), found
    assert found.has("cpu")
    assert "cpu" in [device.kind for device in found.seen_by("cpu")]
    assert found.onnxruntime
    assert found.onnxruntime_genai


def test_a_crash_is_a_finding() -> None:
    assert reason("import os; os.abort()") == "it was killed by signal 6"


def test_an_error_is_a_finding_with_its_last_words() -> None:
    assert reason("import nothing_of_the_kind") == (
        "it ended with 1: ModuleNotFoundError: No module named 'nothing_of_the_kind'"
    )


def test_a_probe_that_hangs_is_ended() -> None:
    assert (
        reason("import signal; signal.pause()", timeout_s=0.01) == "it did not answer within 0.01 s"
    )


def test_nonsense_is_a_finding() -> None:
    assert reason("print('hello')").startswith("it answered nonsense: ")
    assert reason("print('{}')").startswith("it answered nonsense: ")


def test_a_probe_that_cannot_start_is_a_finding() -> None:
    found = probe_providers(command=["/nowhere/python"])
    assert isinstance(found, ProbeFailed)
    assert "No such file" in found.reason


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("cpu", "CPUExecutionProvider", True),
        ("OpenVINO", "openvinoexecutionprovider", True),
        ("openvino", "OpenVINOExecutionProvider", True),
        ("cuda", "CPUExecutionProvider", False),
    ],
)
def test_a_provider_has_a_long_and_a_short_name(one: str, other: str, alike: bool) -> None:
    assert same(one, other) is alike

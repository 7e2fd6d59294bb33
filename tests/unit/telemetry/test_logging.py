"""What an operator reads."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import structlog

from lemonade_serve.domain import events
from lemonade_serve.settings import Log
from lemonade_serve.telemetry.logging import LogObserver, configure_logging
from tests.unit.telemetry.house import (
    CHECKPOINT,
    decoded,
    finished,
    load_failed,
    loaded,
    refused,
    requested,
    unloaded,
)

SECRET = "nobody may log this"  # noqa: S105


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_is_json_with_its_level_and_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Log(format="json"))
    structlog.get_logger().info("something_happened", path="/é", count=2)
    (line,) = lines(capsys)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "something_happened", "level": "info", "path": "/é", "count": 2}


def test_lines_of_libraries_look_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Log(format="json"))
    logging.getLogger("somebody.else").warning("careful with %s", "this")
    (line,) = lines(capsys)
    assert (line["event"], line["level"]) == ("careful with this", "warning")


def test_what_is_bound_to_a_request_is_in_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Log(format="json"))
    with structlog.contextvars.bound_contextvars(request_id="mine"):
        structlog.get_logger().info("something_happened")
        logging.getLogger("somebody.else").warning("careful")
    assert [line["request_id"] for line in lines(capsys)] == ["mine", "mine"]


def test_a_traceback_is_part_of_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Log(format="json"))
    try:
        raise ValueError("what went wrong")
    except ValueError as error:
        structlog.get_logger().error("it_failed", exc_info=error)
    (line,) = lines(capsys)
    assert line["exception"][0]["exc_value"] == "what went wrong"


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_tells_no_prompt(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Log(format=form))

    def fail(prompt: str) -> None:
        raise ValueError(len(prompt))

    try:
        fail(SECRET)
    except ValueError as error:
        structlog.get_logger().error("it_failed", exc_info=error)
    said = capsys.readouterr().err
    assert "ValueError" in said
    assert SECRET not in said


def test_lines_under_the_level_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Log(format="json", level="warning"))
    structlog.get_logger().info("not_now")
    logging.getLogger("somebody.else").info("not now")
    structlog.get_logger().warning("now")
    assert [line["event"] for line in lines(capsys)] == ["now"]


def test_the_clients_library_does_not_tell_of_each_request(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging(Log(format="json"))
    logging.getLogger("httpx").info("HTTP Request: POST ...")
    assert lines(capsys) == []


def test_lines_for_people_are_not_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Log(format="console"))
    structlog.get_logger().info("something_happened", count=2)
    said = capsys.readouterr().err
    assert "something_happened" in said
    assert not said.startswith("{")


def test_where_nobody_looks_lines_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Log(format="auto"))
    structlog.get_logger().info("something_happened")
    assert lines(capsys)[0]["event"] == "something_happened"


@pytest.mark.parametrize(
    ("event", "name", "level"),
    [
        (
            events.CheckpointLoading(reserved_bytes=100, **CHECKPOINT),
            "checkpoint_loading",
            "info",
        ),
        (loaded(), "checkpoint_loaded", "info"),
        (load_failed(), "checkpoint_load_failed", "warning"),
    ],
)
def test_what_becomes_of_a_checkpoint_is_a_line_with_all_its_fields(
    event: events.Event, name: str, level: str
) -> None:
    with structlog.testing.capture_logs() as captured:
        LogObserver().observe(event)
    (line,) = captured
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    assert line == {"event": name, "log_level": level, **fields}


@pytest.mark.parametrize("reason", events.Departure)
def test_only_a_crash_is_a_departure_to_warn_of(reason: events.Departure) -> None:
    with structlog.testing.capture_logs() as captured:
        LogObserver().observe(unloaded(reason))
    assert captured == [
        {
            "event": "checkpoint_unloaded",
            "log_level": "warning" if reason is events.Departure.CRASH else "info",
            **CHECKPOINT,
            "reason": reason.value,
            "idle_s": 45.0,
            "how": "it exited",
        }
    ]


@pytest.mark.parametrize(
    "event", [finished(), refused("small"), requested(resident=True), decoded(3)]
)
def test_a_request_is_the_access_logs_business(event: events.Event) -> None:
    with structlog.testing.capture_logs() as captured:
        LogObserver().observe(event)
    assert captured == []

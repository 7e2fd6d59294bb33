"""Options that several commands share."""

from __future__ import annotations

import pytest

from lemonade_serve.settings import Settings, load_settings
from tests.unit.cli.runner import invoke
from tests.unit.cli.scripted import ScriptedDaemon

ASKING = [
    *("run small why?", "ps", "stats", "load small", "unload small", "pin small", "unpin small"),
    *("params get", "params set seed=1", "params reset"),
]


@pytest.mark.parametrize("command", ASKING)
def test_every_command_that_asks_says_whom_and_as_whom(
    daemon: ScriptedDaemon, command: str
) -> None:
    daemon.status, daemon.body = 403, {"message": "no"}
    invoke(*command.split(), "--api-key", "s3cret", "--client", "alice", "--url", daemon.url)
    headers = daemon.only().headers
    assert (headers["authorization"], headers["x-client-id"]) == ("Bearer s3cret", "alice")


def test_what_a_client_is_told_in_the_environment_is_no_setting_of_the_daemon() -> None:
    environment = {"LEMONADE_URL": "x", "LEMONADE_API_KEY": "y", "LEMONADE_CLIENT_ID": "z"}
    assert load_settings(environment=environment) == Settings()

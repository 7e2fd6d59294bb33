"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_R = TypeVar("_R")

config = click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="LEMONADE_CONFIG",
    help="A TOML file of settings.",
)
cache_dir = click.option(
    "--cache-dir",
    type=click.Path(file_okay=False),
    help="Where checkpoints are.  [default: ~/.cache/lemonade]",
)
state_dir = click.option(
    "--state-dir",
    type=click.Path(file_okay=False),
    help="Where the daemon keeps what must survive it.  [default: ~/.local/state/lemonade]",
)
url = click.option(
    "--url",
    default="http://127.0.0.1:1234",
    envvar="LEMONADE_URL",
    show_default=True,
    show_envvar=True,
    help="The daemon to ask: http://HOST:PORT, or unix:/PATH for a socket.",
)
api_key = click.option(
    "--api-key", envvar="LEMONADE_API_KEY", show_envvar=True, help="The daemon's API key, if any."
)
client = click.option(
    "--client",
    envvar="LEMONADE_CLIENT_ID",
    show_envvar=True,
    help="Ask as this client: whose parameters hold, and are kept.",
)


def daemon(command: Callable[..., _R]) -> Callable[..., _R]:
    """All that says which daemon is asked, and as whom: the command gets it as `api`."""

    @url
    @api_key
    @client
    @functools.wraps(command)
    def asking(*, url: str, api_key: str | None, client: str | None, **given: Any) -> _R:
        from lemonade_serve.cli.client import Api

        return command(api=Api(url, key=api_key, client=client), **given)

    return asking


json_output = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
host = click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
port = click.option("--port", type=int, help="Port to listen on.  [default: 1234]")

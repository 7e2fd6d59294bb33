"""`lemonade-serve serve`."""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path
from typing import Any

import click

from lemonade_serve.cli import options
from lemonade_serve.cli.daemon import run_daemon
from lemonade_serve.settings import load_settings


@click.command()
@options.host
@options.port
@click.option("--uds", help="Listen on this Unix socket instead.")
@click.option(
    "--allow-keyless",
    is_flag=True,
    default=None,
    help="Answer on other addresses than loopback, to anyone.",
)
@options.cache_dir
@options.state_dir
@options.config
def serve(cache_dir: str | None, state_dir: str | None, config: Path | None, **server: Any) -> None:
    """Answer requests until SIGTERM or Ctrl-C.

    Models load when they are first asked for. On SIGTERM requests that are new or wait are refused
    with 503 while running ones finish, server.drain_timeout_s at most; a second signal cuts them.
    On SIGHUP the settings are read again: what can change does, without a request lost, and the log
    says what needs a restart.
    """
    flags = {"cache_dir": cache_dir, "state_dir": state_dir, "server": server}
    read = functools.partial(load_settings, file=config, flags=flags)
    asyncio.run(run_daemon(read(), read_again=read))

"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

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
    help="The daemon to ask.",
)
json_output = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
host = click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
port = click.option("--port", type=int, help="Port to listen on.  [default: 1234]")

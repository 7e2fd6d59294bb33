"""`lemonade-serve` itself: its commands, and how an error looks."""

from __future__ import annotations

import sys

import click

from lemonade_serve import __version__
from lemonade_serve.cli.demo import demo
from lemonade_serve.cli.import_ import import_
from lemonade_serve.cli.list_ import list_
from lemonade_serve.cli.run import run
from lemonade_serve.cli.serve import serve
from lemonade_serve.errors import LemonadeError
from lemonade_serve.settings import Log
from lemonade_serve.telemetry.logging import configure_logging


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def cli() -> None:
    """Serve many language models from one machine.

    \b
    lemonade-serve demo                      a real model answers, from nothing
    lemonade-serve import FILE.gguf          make a checkpoint out of a GGUF file
    lemonade-serve list                      the checkpoints on this machine
    lemonade-serve serve                     answer on http://127.0.0.1:1234
    lemonade-serve run MODEL "a question"    ask the daemon

    Settings come from --config FILE (TOML), then from LEMONADE_... in the environment, then from
    the flags of a command.
    """
    configure_logging(Log(level="warning"))


for command in (demo, import_, list_, run, serve):
    cli.add_command(command)


def main() -> None:
    """The console script."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except LemonadeError as error:
        click.echo(f"lemonade-serve: {error.message}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(141)
    except OSError as error:
        click.echo(f"lemonade-serve: {error}", err=True)
        sys.exit(1)

"""`lemonade-serve` itself: its commands, and how an error looks."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import NamedTuple, cast

import click

from lemonade_serve import __version__
from lemonade_serve.errors import LemonadeError
from lemonade_serve.settings import Log
from lemonade_serve.telemetry.logging import configure_logging


class _Command(NamedTuple):
    """Its object in `lemonade_serve.cli`, and a line for the help."""

    where: str
    example: str
    meaning: str


_PURPOSES: Mapping[str, Mapping[str, _Command]] = {
    "Begin": {
        "demo": _Command("demo:demo", "demo", "a real model answers, from nothing"),
        "serve": _Command("serve:serve", "serve", "answer on http://127.0.0.1:1234"),
    },
    "Checkpoints on this machine": {
        "pull": _Command("pull:pull", "pull OWNER/NAME", "get a model from the Hugging Face hub"),
        "import": _Command(
            "import_:import_", "import FILE.gguf", "make a checkpoint out of a GGUF file"
        ),
        "convert": _Command(
            "convert:convert", "convert DIRECTORY", "make a checkpoint out of safetensors"
        ),
        "list": _Command("list_:list_", "list", "the checkpoints that there are"),
        "show": _Command("show:show", "show MODEL", "what it is, and where it came from"),
        "rm": _Command("rm:rm", "rm MODEL", "take it off the disk"),
        "alias": _Command("alias:alias", "alias NAME MODEL", "a name that stays"),
    },
    "Ask a running daemon": {
        "run": _Command("run:run", 'run MODEL "a question"', "the answer, as it comes"),
        "stats": _Command("stats:stats", "stats", "how fast the last request was"),
        "params": _Command(
            "params:params", "params get|set|reset", "what a client's requests are generated with"
        ),
    },
    "This machine": {
        "doctor": _Command("doctor:doctor", "doctor", "what would keep it from serving"),
        "healthcheck": _Command(
            "healthcheck:healthcheck", "healthcheck", "does its daemon answer: for containers"
        ),
        "config": _Command("config:config_", "config", "the settings in force, and who said so"),
    },
    "Models in its memory": {
        "ps": _Command("ps:ps", "ps", "what is loaded, and how much room is left"),
        "load": _Command("residency:load", "load MODEL", "bring a model in before it is needed"),
        "unload": _Command("residency:unload", "unload MODEL", "give its memory back"),
        "pin": _Command("residency:pin", "pin MODEL", "keep it, whatever else is asked for"),
        "unpin": _Command("residency:unpin", "unpin MODEL", "let it go when room is needed"),
    },
}
_COMMANDS = {name: command for group in _PURPOSES.values() for name, command in group.items()}


class _Commands(click.Group):
    """Imports a command when it is called: asking a daemon needs no web server in memory."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name].where.partition(":")
        found = importlib.import_module(f"lemonade_serve.cli.{module}")
        return cast(click.Command, getattr(found, attribute))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for purpose, commands in _PURPOSES.items():
            with formatter.section(purpose):
                rows = [(f"lemonade-serve {c.example}", c.meaning) for c in commands.values()]
                formatter.write_dl(rows, col_max=42)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__)
def cli() -> None:
    """Serve many language models from one machine.

    The daemon takes its settings from --config FILE (TOML), then from LEMONADE_... in the
    environment, then from the flags of a command. Commands that ask a running daemon find it by
    --url or LEMONADE_URL. COMMAND --help says more.
    """
    configure_logging(Log(level="warning"))


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

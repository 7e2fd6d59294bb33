"""Commands, run in this process."""

from __future__ import annotations

from click.testing import CliRunner, Result

from lemonade_serve.cli import root


def invoke(*arguments: str, stdin: str | None = None) -> Result:
    """Its output goes to no terminal. A LemonadeError is the result's `exception`."""
    return CliRunner().invoke(root.cli, arguments, input=stdin)


def output(*arguments: str) -> str:
    """What a command that succeeds prints."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.exception or result.output
    return result.stdout

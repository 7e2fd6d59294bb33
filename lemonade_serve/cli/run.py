"""`lemonade-serve run`."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import click

from lemonade_serve.cli import options
from lemonade_serve.cli.client import Api, Figures


@click.command()
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("--raw", is_flag=True, help="Continue the prompt as it is, without a chat template.")
@click.option("--system", help="What the model is told before the prompt.")
@click.option("--temperature", type=float, help="0 is greedy.  [default: what `params get` says]")
@click.option("--max-tokens", type=int, help="The most tokens to generate.  [default: the same]")
@click.option("--seed", type=int, help="The same seed gives the same text.")
@click.option("--stats", is_flag=True, help="Print times and tokens to standard error.")
@options.daemon
@options.json_output
def run(
    model: str, prompt: str | None, raw: bool, system: str | None, api: Api, **said: Any
) -> None:
    """Ask a running daemon; the answer streams to the terminal.

    MODEL is a name that `lemonade-serve list` shows; it loads if it is not loaded. PROMPT is read
    from standard input when it is not given, or is -.
    """
    stats, as_json = said.pop("stats"), said.pop("as_json")
    if prompt in (None, "-"):
        prompt = sys.stdin.read()
    if not prompt:
        raise click.UsageError("the prompt is empty")
    body = {"model": model, **{name: value for name, value in said.items() if value is not None}}
    if raw:
        path = "/v1/completions"
        body["prompt"] = prompt
    else:
        path = "/v1/chat/completions"
        instructions = [{"role": "system", "content": system}] if system else []
        body["messages"] = [*instructions, {"role": "user", "content": prompt}]
    asyncio.run(_run(api, path, body, stats=stats, as_json=as_json))


async def _run(api: Api, path: str, body: dict[str, Any], *, stats: bool, as_json: bool) -> None:
    figures, texts = Figures(), []
    async for piece in api.ask(path, body):
        figures.saw(piece)
        texts.append(piece.text)
        if not as_json:
            click.echo(piece.text, nl=False)
    if as_json:
        tokens = figures.completion_tokens
        answer = {"model": body["model"], "text": "".join(texts), "completion_tokens": tokens}
        click.echo(json.dumps(answer, ensure_ascii=False))
    else:
        click.echo()
    if stats:
        click.echo(figures.line(), err=True)

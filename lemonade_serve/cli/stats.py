"""`lemonade-serve stats`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import click
import msgspec

from lemonade_serve.cli import options, table
from lemonade_serve.cli.client import Api, read


class _Stats(msgspec.Struct, frozen=True, kw_only=True):
    """All None before the first request has finished; times in seconds."""

    time_to_first_token: float | None = None
    tokens_per_second: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    decode_token_times: list[float] | None = None
    model: str | None = None
    device: str | None = None


@click.command()
@click.option("--model", help="The last request of this model.  [default: of any]")
@options.daemon
@options.json_output
def stats(api: Api, model: str | None, as_json: bool) -> None:
    """Show how fast the last finished request was."""
    answer = api.get("/api/v0/stats", model=model)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    last = read(answer, _Stats)
    if last.model is None:
        click.echo("No request has finished yet")
        return
    rows = table.columns("", "")
    rows.show_header = False
    for name, value in _lines(last).items():
        rows.add_row(name, value)
    table.show(rows)


def _lines(last: _Stats) -> dict[str, str]:
    return {
        "model": f"{last.model} on {last.device}",
        "time to first token": _figure(last.time_to_first_token, ".3f", " s"),
        "tokens per second": _figure(last.tokens_per_second, ".1f"),
        "input tokens": _figure(last.input_tokens, "d"),
        "output tokens": _figure(last.output_tokens, "d"),
        "between two tokens": _summary(last.decode_token_times or []),
    }


def _figure(value: float | None, style: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{style}}{unit}"


def _summary(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    p50, p95 = (percentile(seconds, share) * 1000 for share in (0.50, 0.95))
    return f"p50 {p50:.1f} ms, p95 {p95:.1f} ms"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values`, not empty, that at least `share` of them do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]

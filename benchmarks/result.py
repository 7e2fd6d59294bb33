"""What every measurement has: its arguments, its quantiles, and the file that it writes."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import provenance
from lemonade_serve.app import create_catalog
from lemonade_serve.domain.checkpoint import CheckpointInfo
from lemonade_serve.settings import load_settings


def parser(about: str, name: str, *, rounds: int) -> argparse.ArgumentParser:
    """`name` is the result's, under benchmarks/results."""
    made = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--rounds", type=int, default=rounds, help=f"default {rounds}")
    made.add_argument("--seed", type=int, default=1, help="of prompts and orders")
    made.add_argument("--model", default="SmolLM2-135M-Instruct")
    made.add_argument("--cache-dir", help="where the model is")
    made.add_argument("--output", type=Path, default=Path(f"benchmarks/results/{name}.json"))
    return made


def cores() -> int:
    """That this process and its children may use."""
    return len(os.sched_getaffinity(0))


def find_checkpoint(given: argparse.Namespace) -> CheckpointInfo:
    """The one that was asked for; raises ModelNotFound."""
    settings = load_settings(flags={"cache_dir": given.cache_dir})
    return create_catalog(settings).find(given.model, "auto")


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of them that at least `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(share * len(ordered))) - 1]


def quartiles(values: Sequence[float]) -> list[float]:
    """The lower and the upper one."""
    ordered = sorted(values)
    return [ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Of all of them together."""
    return {
        "p50": statistics.median(values),
        "p95": quantile(values, 0.95),
        "max": max(values),
    }


def save(
    about: str, given: argparse.Namespace, checkpoint: CheckpointInfo | None, **figures: object
) -> None:
    """Beside what has to be said of the machine and the code. No checkpoint: a server that ran
    already has its own."""
    result = {
        "about": about.splitlines()[0],
        "machine": provenance(),
        "seed": given.seed,
        "checkpoint": checkpoint and {"name": checkpoint.name, "dtype": checkpoint.dtype},
        **figures,
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(result, indent=1) + "\n")

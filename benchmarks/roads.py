"""One model by every road: imported from its GGUF file, and converted from safetensors.

    python -m benchmarks.roads FILE.gguf --export-python PYTHON [--rounds 5]

The safetensors are the file's weights, dequantised (benchmarks/safetensors.py): all roads begin at
the same numbers. PYTHON is of an environment with the extra `export` (docs/convert.md). Perplexity
and top-1 agreement are over the shipped text and against the float weights, as the builder's fp32
has them, which its own check has found equal to transformers. Load time is what `POST /api/v0/load`
takes, tokens/s are of one greedy stream; roads take turns, in an order drawn anew each round.
Writes benchmarks/results/roads.json, prints a table.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.daemon import Client, daemon, new_prompt
from benchmarks.result import cores, parser, save
from benchmarks.safetensors import write_source
from lemonade_serve.app import create_catalog, create_job_runner, create_workshops
from lemonade_serve.domain.conversions import convert_directory
from lemonade_serve.domain.imports import import_gguf
from lemonade_serve.hub import provenance
from lemonade_serve.importers.scores import compare, passage_ids, score
from lemonade_serve.importers.trial import Trial
from lemonade_serve.settings import load_settings
from lemonade_serve.worker.engines.choice import examine

_IMPORTS = {"GGUF import, auto": "auto", "GGUF import, int4": "int4", "GGUF import, fp32": "fp32"}
_CONVERSIONS = {
    "builder, int4 k_quant_mixed": ("int4", "k_quant_mixed"),
    "builder, int4 k_quant_last": ("int4", "k_quant_last"),
    "builder, int4 k_quant": ("int4", "k_quant"),
    "builder, int4 default": ("int4", "default"),
    "builder, int4 rtn": ("int4", "rtn"),
    "builder, int8": ("int8", "default"),
    "builder, fp32": ("fp32", "default"),
}
_FLOAT = "builder, fp32"
_PROMPT_WORDS = 32
_ALMOST = 0.999

Make = Callable[[], Awaitable[Path]]


def makers(gguf: Path, source: Path, root: Path, python: str) -> Mapping[str, Make]:
    """What makes a checkpoint in the cache directory `root`, by road; the model is called so too,
    but for what no name may have."""
    settings = load_settings(flags={"cache_dir": str(root)})
    catalog = create_catalog(settings)

    def imported(road: str, dtype: str) -> Make:
        return lambda: import_gguf(
            gguf,
            _name(road),
            dtype,
            jobs=create_job_runner(settings),
            shelf=catalog,
            progress=_quiet,
        )

    def converted(road: str, dtype: str, algorithm: str) -> Make:
        said = {"convert": {"python": python, "algorithm": algorithm, "max_perplexity_ratio": 10.0}}
        own = create_workshops(load_settings(flags=said)).decoders
        return lambda: convert_directory(
            source,
            _name(road),
            own.recipe(dtype, ["cpu"]),
            conversions=own,
            shelf=catalog,
            progress=_quiet,
        )

    return {
        **{road: imported(road, dtype) for road, dtype in _IMPORTS.items()},
        **{road: converted(road, *how) for road, how in _CONVERSIONS.items()},
    }


def _name(road: str) -> str:
    return road.replace(", ", "-").replace(" ", "-")


def _quiet(stage: str, done: float) -> None:
    """Nobody watches."""


def make(roads: Mapping[str, Make]) -> dict[str, dict[str, Any]]:
    """A row for each road."""
    rows: dict[str, dict[str, Any]] = {}
    for road, begin in roads.items():
        began = time.perf_counter()

        async def finish(begin: Make = begin) -> Path:
            return await begin()

        path = asyncio.run(finish())
        rows[road] = {
            "path": path,
            "made_s": time.perf_counter() - began,
            "bytes": sum(file.stat().st_size for file in path.iterdir()),
            "engine": "batched" if examine(path, "cpu").decoder else "onnxruntime-genai",
        }
    return rows


def judge(rows: Mapping[str, dict[str, Any]]) -> None:
    """Perplexity and agreement, of each against the float weights."""
    own = provenance.read(rows[_FLOAT]["path"]).conversion
    assert own
    assert own.check
    assert own.check.agreement >= _ALMOST, own.check
    ids = passage_ids(rows[_FLOAT]["path"] / "tokenizer.json")
    scores = {
        road: score(Trial(row["path"], threads=cores()).logits(ids), ids)
        for road, row in rows.items()
    }
    for road, row in rows.items():
        quality = compare(scores[road], scores[_FLOAT])
        row |= {
            "perplexity": quality.perplexity,
            "top1": quality.agreement,
            "positions": quality.positions,
        }


def measure(rows: Mapping[str, dict[str, Any]], root: Path, given: argparse.Namespace) -> None:
    """Load times and speeds, by turns."""
    choose = random.Random(given.seed)  # noqa: S311
    loads: dict[str, list[float]] = {road: [] for road in rows}
    speeds: dict[str, list[float]] = {road: [] for road in rows}
    with daemon(root, {"POOL__MIN_RESIDENCY_S": 0}) as port:
        client = Client(port)
        for _ in range(given.rounds):
            for road in choose.sample(list(rows), len(rows)):
                model = {"model": _name(road)}
                began = time.perf_counter()
                client.ask("/api/v0/load", model)
                loads[road].append(time.perf_counter() - began)
                prompt = new_prompt(choose, _PROMPT_WORDS)
                stream = client.stream(_name(road), prompt, given.tokens)
                speeds[road].append(1 / statistics.median(stream.gaps))
                client.ask("/api/v0/unload", model)
    for road, row in rows.items():
        row |= {"load_s": statistics.median(loads[road]), "loads_s": loads[road]}
        row |= {"tokens_per_s": statistics.median(speeds[road]), "speeds": speeds[road]}


def show(rows: Mapping[str, dict[str, Any]]) -> None:
    print("| road | MB | made in, s | load, s | tokens/s | perplexity | top-1 | engine |")
    print("|---|---|---|---|---|---|---|---|")
    for road, row in rows.items():
        print(
            f"| {road} | {row['bytes'] / 1e6:.0f} | {row['made_s']:.0f} | {row['load_s']:.2f} | "
            f"{row['tokens_per_s']:.0f} | {row['perplexity']:.2f} | {row['top1']:.1%} | "
            f"{row['engine']} |"
        )


def main() -> None:
    arguments = parser(__doc__, "roads", rounds=5)
    arguments.add_argument("file", type=Path)
    arguments.add_argument("--export-python", required=True)
    arguments.add_argument("--tokens", type=int, default=64)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source, root = Path(scratch, "source"), Path(scratch, "cache")
        source.mkdir()
        write_source(given.file, source)
        rows = make(makers(given.file.resolve(), source, root, given.export_python))
        judge(rows)
        measure(rows, root, given)
    for row in rows.values():
        del row["path"]
    save(__doc__, given, None, source=given.file.name, output_tokens=given.tokens, roads=rows)
    show(rows)


if __name__ == "__main__":
    main()

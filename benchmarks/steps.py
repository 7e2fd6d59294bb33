"""What a step of the batched engine costs, and what its choices bring.

    python -m benchmarks.steps [--rounds 5] [--contexts 100 1500]

Each round, in an order drawn anew, a process of its own for each variant: `as it is`; `apart`, the
products of the graph as its file has them; `flash`, ONNX Runtime's other attention; `small pages`,
the weights where they were loaded. It times steps of 1, 4, 8 and 16 sequences whose prompts have so
many tokens, sampling included; a prompt of 128 tokens; two rows of the KV cache with 1,000 tokens
each that change places, against copying one; and memory that moves to huge pages. Writes
benchmarks/results/steps.json, prints a table.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.figures import of_rounds, ratios
from benchmarks.result import cores, find_checkpoint, parser, save
from lemonade_serve.protocol.messages import Load, ResolvedParams
from lemonade_serve.worker.engines import base, opening, runner
from lemonade_serve.worker.engines.base import Engine, Group, Id
from lemonade_serve.worker.engines.cache import KvCache
from lemonade_serve.worker.engines.choice import examine
from lemonade_serve.worker.engines.fusion import FusedGraph
from lemonade_serve.worker.engines.opening import open_engine
from lemonade_serve.worker.engines.pages import settle
from lemonade_serve.worker.sampler import Drawing

_BASE = "as it is"
_APART, _SMALL = "BENCHMARKS_STEPS_APART", "BENCHMARKS_STEPS_SMALL"
"""In the environment of a process: load graphs as they are; leave pages as they are."""
_VARIANTS = {
    _BASE: {},
    "apart": {_APART: "1"},
    "flash": {"ORT_GQA_DISABLE_FLASH_ATTENTION": "0"},
    "small pages": {_SMALL: "1"},
}
_WIDTHS = (1, 4, 8, 16)
_STEPS = 24
_PROMPT, _MOVED = 128, 1000
_SETTLED = 256 << 20
_CONTEXT = 8192


def child(directory: Path, threads: int, contexts: Sequence[int], seed: int) -> dict[str, float]:
    """In ms, but for the widths' tokens a second."""
    choose, figures = random.Random(seed), {}  # noqa: S311, tokens
    load = Load(
        path=str(directory),
        execution_provider="cpu",
        threads=threads,
        sequence_slots=max(_WIDTHS),
        kv_cache_tokens=max(_WIDTHS) * (max(contexts) + 256),
        prefill_chunk_tokens=_PROMPT,
        turn_timeout_s=1,
        engine="batched",
    )
    with _as_the_environment_says():
        engine, _ = open_engine(load, context_length=_CONTEXT)
    for context in contexts:
        prompt = [choose.randrange(100, 30_000) for _ in range(context)]
        for width in _WIDTHS:
            for number in range(width):
                engine.start(_group(number, [*prompt[:-1], 200 + number]))
            while sum(engine.step().batch for _ in range(2)) < 2 * width:
                pass  # prompts are still being read
            taken = _timed(engine.step, _STEPS)
            figures[f"{context}_tokens_width_{width}_per_s"] = width / taken
            _release(engine, width)
    reads = []
    for _ in range(5):
        prompt = [choose.randrange(100, 30_000) for _ in range(_PROMPT)]
        engine.start(_group(0, prompt))
        reads.append(_timed(engine.step, 1))
        _release(engine, 1)
    figures["prompt_ms"] = statistics.median(reads) * 1e3
    return figures | _rows(directory) | {"settling_ms_per_gib": _settling()}


@contextmanager
def _as_the_environment_says() -> Iterator[None]:
    with ExitStack() as patched:
        if os.environ.get(_APART):
            patched.enter_context(patch.object(runner, "fuse_products", _as_it_is))
        patched.enter_context(patch.object(opening, "begin_settling"))
        yield
    if not os.environ.get(_SMALL):
        settle()


def _settling() -> float:
    """What it takes for memory that lies in small pages, in ms for a GiB."""
    with mmap.mmap(-1, _SETTLED, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for place in range(0, _SETTLED, mmap.PAGESIZE):
            memory[place] = 1
        settle()  # what else there is
        memory.madvise(mmap.MADV_HUGEPAGE)
        return _timed(settle, 1) * 1e3 * (1 << 30) / _SETTLED


def _as_it_is(path: Path) -> FusedGraph:
    return FusedGraph(path.read_bytes(), {})


def _group(request: int, prompt: list[int]) -> Group:
    drawing = Drawing(ResolvedParams(do_sample=False), prompt, frozenset())
    return Group(prompt, _STEPS * 4, [base.Sequence(Id(request, 0), drawing)])


def _release(engine: Engine, count: int) -> None:
    for request in range(count):
        engine.release(Id(request, 0))


def _rows(directory: Path) -> dict[str, float]:
    decoder, why = examine(directory, "cpu")
    assert decoder, why
    cache = KvCache(
        layers=len(decoder.past_keys),
        rows=2,
        heads=decoder.kv_heads,
        capacity=_CONTEXT,
        head_size=decoder.head_size,
        dtype=np.dtype(decoder.cache_dtype),
    )
    for layer in range(len(decoder.past_keys)):
        for side in (0, 1):
            cache.side(layer, side, 0, 2)[:, :, :_MOVED] = 1
    return {
        "exchange_ms": _timed(lambda: cache.exchange(0, 1, _MOVED), 9) * 1e3,
        "copy_ms": _timed(lambda: cache.copy(0, 1, 0, _MOVED), 9) * 1e3,
    }


def _timed(act: Callable[[], object], times: int) -> float:
    """The median, in seconds."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        act()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Medians and quartiles; speed against `as it is` is taken by round."""
    return [
        {"variant": variant}
        | {
            figure: of_rounds(row[variant][figure] for row in rows)
            | {"ratio": ratios(rows, variant, _BASE, figure)}
            for figure in rows[0][variant]
        }
        for variant in _VARIANTS
    ]


def show(table: Sequence[dict[str, Any]]) -> None:
    for figure in table[0]:
        if figure == "variant":
            continue
        cells = []
        for row in table:
            ratio = row[figure]["ratio"]
            low, high = ratio["quartiles"]
            cells.append(
                f"{row['variant']} {row[figure]['median']:.1f} "
                f"(x{ratio['median']:.3f}, {low:.3f} to {high:.3f})"
            )
        print(f"{figure:30} {'   '.join(cells)}")


def main() -> None:
    arguments = parser(__doc__, "steps", rounds=5)
    arguments.add_argument("--contexts", type=int, nargs="+", default=[100, 1500], help="tokens")
    arguments.add_argument("--child", type=int, help="measure once, in this process, on this seed")
    given = arguments.parse_args()
    checkpoint = find_checkpoint(given)
    if given.child is not None:
        print(json.dumps(child(checkpoint.path, cores(), given.contexts, given.child)))
        return
    choose, rows = random.Random(given.seed), []  # noqa: S311, an order
    for number in range(given.rounds):
        row: dict[str, Any] = {
            "round": number,
            "order": choose.sample(list(_VARIANTS), len(_VARIANTS)),
        }
        for variant in row["order"]:
            command = [sys.executable, "-m", "benchmarks.steps", *sys.argv[1:]]
            environment = {**os.environ, **_VARIANTS[variant]}
            ran = subprocess.run(
                [*command, "--child", str(number)], env=environment, capture_output=True, check=True
            )
            row[variant] = json.loads(ran.stdout)
        rows.append(row)
    table = summary(rows)
    save(__doc__, given, checkpoint, contexts=given.contexts, summary=table, rounds=rows)
    show(table)


if __name__ == "__main__":
    main()

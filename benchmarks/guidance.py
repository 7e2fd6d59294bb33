"""What keeping an answer to a form costs, and what its bounds are bounds against.

    python -m benchmarks.guidance [--rounds 20]

In a process of its own each: the model's tokenizer, read; a schema, an expression and a grammar,
compiled and walked through at random, `--rounds` times (mask and accept of a token); a grammar so
ambiguous that its masks reach the bound of a step; and what worker/schemas.py refuses, compiled by
llguidance without it: multiples and patterns that hold at once, by their size. Times in ms; `peak`
is what the process has grown by since the tokenizer was there, in MB. Writes
benchmarks/results/guidance.json, prints a table.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from benchmarks.result import find_checkpoint, parser, save, spread
from lemonade_serve import errors
from lemonade_serve.protocol.messages import Guidance, ResolvedParams, TextPrompt, Work
from lemonade_serve.worker.guidance import GrammarMask, Grammars
from lemonade_serve.worker.vocabulary import Vocabulary

_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 20},
        "size": {"enum": ["small", "large"]},
        "tags": {
            "type": "array",
            "items": {"type": "string", "pattern": "^[a-z]{2,8}$"},
            "maxItems": 3,
        },
        "price": {"type": "number", "minimum": 0, "maximum": 100, "multipleOf": 0.01},
    },
    "required": ["name", "size", "tags", "price"],
    "additionalProperties": False,
}
_FORMS = {
    "schema": Guidance("json_schema", json.dumps(_SCHEMA)),
    "regex": Guidance("regex", r"(yes|no), [a-z]{2,40}\."),
    "lark": Guidance("lark", 'start: CITY ("," CITY){1,9} "."\nCITY: "Rome" | "Lima" | "Oslo"'),
}
_AMBIGUOUS = Guidance("lark", "start: s\ns: s s s | s s | /[a-z ]/")
_MULTIPLES = (9_973, 99_991, 999_983)
_PATTERNS = (12, 16, 20)
_MOST_TOKENS = 200

_T = TypeVar("_T")


def _timed(act: Callable[[], _T]) -> tuple[float, _T]:
    began = time.perf_counter()
    made = act()
    return (time.perf_counter() - began) * 1e3, made


def _walk(mask: GrammarMask, choose: random.Random) -> dict[str, list[float]]:
    """Through a grammar at random, until it ends, or fails, or has had enough."""
    masks: list[float] = []
    accepts: list[float] = []
    while not mask.over and len(masks) < _MOST_TOKENS:
        try:
            took, words = _timed(mask.allowed)
            masks.append(took)
            bits = np.unpackbits(words.view(np.uint8), bitorder="little")
            token = choose.choice(np.flatnonzero(bits).tolist())
            took, _ = _timed(lambda: mask.accept(token))  # noqa: B023, it is called at once
        except errors.GenerationFailed:
            break
        accepts.append(took)
    return {"mask": masks, "accept": accepts}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(directory: Path, what: str, rounds: int, seed: int) -> dict[str, Any]:
    """One row, in ms and MB."""
    vocabulary = Vocabulary(directory)
    read, tokenizer = _timed(
        lambda: LLTokenizer(
            vocabulary.tokenizer_json.read_text(), eos_token=sorted(vocabulary.eos_ids)
        )
    )
    before = _peak_mb()
    if what == "tokenizer":
        return {"read_ms": read}
    kind, _, size = what.partition(" ")
    if kind in ("multiple", "patterns"):
        schema = _refused(kind, int(size))
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema))
        took, _ = _timed(lambda: LLMatcher(tokenizer, grammar, log_level=0))
        return {"compile_ms": took, "peak_mb": _peak_mb() - before}
    grammars = Grammars(vocabulary.tokenizer_json, vocabulary.eos_ids)
    form = _AMBIGUOUS if what == "ambiguous" else _FORMS[what]
    work = Work(TextPrompt("x"), ResolvedParams(), guidance=form)
    grammars.masks(work)  # the first one reads the tokenizer
    choose, compiled = random.Random(seed), []  # noqa: S311, a walk
    walked: dict[str, list[float]] = {"mask": [], "accept": []}
    for _ in range(rounds):
        took, (mask,) = _timed(lambda: grammars.masks(work))
        compiled.append(took)
        for name, times in _walk(mask, choose).items():
            walked[name] += times
    return {
        "compile_ms": spread(compiled),
        **{f"{name}_ms": spread(times) for name, times in walked.items()},
        "tokens": len(walked["accept"]),
    }


def _refused(kind: str, size: int) -> dict[str, Any]:
    if kind == "multiple":
        return {"type": "integer", "multipleOf": size}
    return {"allOf": [{"type": "string", "pattern": f"[a-m]{{{n}}}"} for n in range(1, size + 1)]}


def show(rows: dict[str, dict[str, Any]]) -> None:
    for what, row in rows.items():
        cells = []
        for figure, value in row.items():
            shown = (
                " ".join(f"{q} {v:.3f}" for q, v in value.items())
                if isinstance(value, dict)
                else f"{value:.0f}"
            )
            cells.append(f"{figure} {shown}")
        print(f"{what:16} {'   '.join(cells)}")


def main() -> None:
    arguments = parser(__doc__, "guidance", rounds=20)
    arguments.add_argument("--child", metavar="WHAT", help="measure that, in this process")
    given = arguments.parse_args()
    checkpoint = find_checkpoint(given)
    if given.child is not None:
        print(json.dumps(child(checkpoint.path, given.child, given.rounds, given.seed)))
        return
    rows: dict[str, dict[str, Any]] = {}
    whats = ["tokenizer", *_FORMS, "ambiguous"]
    whats += [f"multiple {n}" for n in _MULTIPLES] + [f"patterns {n}" for n in _PATTERNS]
    for what in whats:
        command = [sys.executable, "-m", "benchmarks.guidance", *sys.argv[1:], "--child", what]
        ran = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        rows[what] = json.loads(ran.stdout)
    save(__doc__, given, checkpoint, rounds=given.rounds, rows=rows)
    show(rows)


if __name__ == "__main__":
    main()

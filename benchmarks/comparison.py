"""Two results of `python -m benchmarks.load`, side by side, as ratios."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_FIGURES = (
    "tokens_per_s",
    "goodput_per_s",
    "ttft_ms_p50",
    "ttft_ms_p95",
    "gap_ms_p50",
    "gap_ms_p95",
)
_CELL = ("models", "shared", "prompt_tokens", "concurrency", "rate")

Key = tuple[object, ...]


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of what both measured: `after` to `before`. The two did not take turns, so that a ratio has
    no quartiles: `least` and `most` are those of the quartiles' own ratios.

    Sides are matched by name, or as the only one of each.
    """
    olds, news = _by_cell(before), _by_cell(after)
    sides = _matching(before, after)
    rows = []
    for (old_side, new_side), cell in ((pair, cell) for pair in sides for cell in _cells(olds)):
        old, new = olds.get((old_side, *cell)), news.get((new_side, *cell))
        if old and new:
            row = {**dict(zip(_CELL, cell, strict=True)), "before": old_side, "after": new_side}
            rows.append({**row, **{f: _ratio(old[f], new[f]) for f in _both(old, new)}})
    return rows


def _ratio(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, float]:
    (old_low, old_high), (new_low, new_high) = old["quartiles"], new["quartiles"]
    return {
        "ratio": new["median"] / old["median"],
        "least": new_low / old_high,
        "most": new_high / old_low,
    }


def _both(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """The figures that can be divided."""
    for figure in _FIGURES:
        if figure in old and figure in new and min(old[figure]["quartiles"]) > 0:
            yield figure


def _by_cell(result: Mapping[str, Any]) -> dict[Key, dict[str, Any]]:
    return {(row["side"], *(row[field] for field in _CELL)): row for row in result["summary"]}


def _cells(rows: Mapping[Key, object]) -> list[Key]:
    return list(dict.fromkeys(key[1:] for key in rows))


def _matching(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str]]:
    olds, news = list(before["sides"]), list(after["sides"])
    if len(olds) == len(news) == 1:
        return [(olds[0], news[0])]
    return [(name, name) for name in olds if name in news]


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    print("models shared prompt   load  side       " + "".join(f"{f:>24}" for f in _FIGURES))
    for row in rows:
        load = f"{row['concurrency']:4} x" if row["concurrency"] else f"{row['rate']:4g}/s"
        line = f"{row['models']:6} {'yes' if row['shared'] else 'no':6} {row['prompt_tokens']:6} "
        line += f"{load}  {row['after']:10} "
        for figure in _FIGURES:
            cell = ""
            if figure in row:
                cell = "{ratio:.3f} ({least:.2f} to {most:.2f})".format(**row[figure])
            line += f"{cell:>24}"
        print(line)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load compare", description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    given = parser.parse_args(arguments)
    before, after = (json.loads(file.read_text()) for file in (given.before, given.after))
    for field in ("cpu", "cpu_flags", "cores", "packages"):
        if before["machine"][field] != after["machine"][field]:
            print(f"They were not measured on the same machine: {field} differs.")
    print(f"{before['machine']['commit']} → {after['machine']['commit']}: after / before")
    show(compare(before, after))

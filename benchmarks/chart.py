"""A load result as a picture: small panels, in SVG written by hand, as it needs no library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_FIGURES = {
    "tokens_per_s": "tokens/s",
    "goodput_per_s": "goodput, requests/s",
    "ttft_ms_p50": "TTFT p50, ms",
    "gap_ms_p95": "gap p95, ms",
}
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")
_WIDTH, _HEIGHT = 190, 130
_LEFT, _TOP, _GAP = 50, 50, 45
_STYLE = "font-family='sans-serif' font-size='10'"

Row = Mapping[str, Any]


def draw(table: Sequence[Row]) -> str:
    """A panel for each figure (down) and each kind of request (across): the medians of each side,
    with bars from quartile to quartile, over concurrency or rate."""
    sides = list(dict.fromkeys(row["side"] for row in table))
    colours = {side: _COLOURS[n % len(_COLOURS)] for n, side in enumerate(sides)}
    kinds = list(dict.fromkeys(map(_kind, table)))
    width = _LEFT + len(kinds) * (_WIDTH + _GAP)
    height = _TOP + len(_FIGURES) * (_HEIGHT + _GAP)
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' {_STYLE}>",
        f"<rect width='{width}' height='{height}' fill='white'/>",
    ]
    for number, side in enumerate(sides):
        parts.append(_text(_LEFT + 120 * number, 15, f"● {side}", fill=colours[side]))
    for column, kind in enumerate(kinds):
        x = _LEFT + column * (_WIDTH + _GAP)
        parts.append(_text(x, _TOP - 15, kind))
        here = [row for row in table if _kind(row) == kind]
        for line, (figure, title) in enumerate(_FIGURES.items()):
            y = _TOP + line * (_HEIGHT + _GAP)
            parts += _panel(x, y, title, [row for row in here if figure in row], figure, colours)
    return "\n".join([*parts, "</svg>\n"])


def _kind(row: Row) -> str:
    loop = "in flight" if row["concurrency"] else "arriving a second"
    shared = ", shared prefix" if row["shared"] else ""
    models = ", two models" if row["models"] == 2 else ""
    return f"{row['prompt_tokens']} tokens{shared}{models}; {loop}"


def _panel(
    x: float, y: float, title: str, rows: Sequence[Row], figure: str, colours: Mapping[str, str]
) -> list[str]:
    most = max((row[figure]["quartiles"][1] for row in rows), default=0) or 1
    loads = sorted({_load(row) for row in rows})
    step = _WIDTH / max(1, len(loads))

    def place(load: float, value: float) -> tuple[float, float]:
        return x + step * (loads.index(load) + 0.5), y + _HEIGHT * (1 - value / most)

    parts = [
        f"<path d='M{x},{y} v{_HEIGHT} h{_WIDTH}' fill='none' stroke='#888'/>",
        _text(x + 4, y + 8, title),
        _text(x - 4, y + 8, f"{most:,.0f}" if most >= 100 else f"{most:.3g}", anchor="end"),
        _text(x - 4, y + _HEIGHT, "0", anchor="end"),
    ]
    for load in loads:
        parts.append(_text(place(load, 0)[0], y + _HEIGHT + 12, f"{load:g}", anchor="middle"))
    for side, colour in colours.items():
        own = sorted((row for row in rows if row["side"] == side), key=_load)
        points = [place(_load(row), row[figure]["median"]) for row in own]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}'/>")
        for row, (px, py) in zip(own, points, strict=True):
            (_, low), (_, high) = (place(_load(row), q) for q in row[figure]["quartiles"])
            parts.append(f"<path d='M{px:.1f},{low:.1f} V{high:.1f}' stroke='{colour}'/>")
            parts.append(f"<circle cx='{px:.1f}' cy='{py:.1f}' r='2.5' fill='{colour}'/>")
    return parts


def _load(row: Row) -> float:
    return float(row["concurrency"] or row["rate"])


def _text(x: float, y: float, text: str, *, anchor: str = "start", fill: str = "black") -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' fill='{fill}'>{escape(text)}</text>"
    )

"""Tables: folded to a terminal's width, and as wide as they are where there is none."""

from __future__ import annotations

from rich.console import Console, JustifyMethod
from rich.table import Table

_AS_WIDE_AS_IT_IS = 10_000


def columns(*headings: str, figures: tuple[str, ...] = ()) -> Table:
    """An empty table; the columns that are `figures` stand to the right."""
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        justify: JustifyMethod = "right" if heading in figures else "left"
        table.add_column(heading, justify=justify, overflow="fold")
    return table


def show(table: Table) -> None:
    """Print it. What stands in it is shown as it is: a name in brackets is no markup."""
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = _AS_WIDE_AS_IT_IS
    console.print(table)

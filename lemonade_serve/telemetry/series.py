"""Counters and histograms that are cheap to write: ten models have some 2,900 series between them.

`prometheus_client` makes and escapes each label of each sample anew at each scrape, which takes it
several times what a scrape may take. Here a child has the text of its series ready, and a scrape
writes numbers behind it. What is few, or is asked for at the scrape, is left to the library.

Not for threads: the event loop counts, and it writes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import ClassVar, Generic, Protocol, TypeVar

PREFIX = "lemonade_"
MODEL = "model"

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Child(Protocol):
    """The series of one set of labels."""

    def text(self) -> str:
        """Their lines."""


_C = TypeVar("_C", bound=Child)


class Family(ABC, Generic[_C]):
    """All series of one name. A child is there, at 0, from its first mention on."""

    kind: ClassVar[str]

    def __init__(self, name: str, help: str, labels: Sequence[str]) -> None:
        """`name` is without the prefix; `help` is one line."""
        self.name = PREFIX + name
        self._help = help
        self.labels = tuple(labels)
        self._children: dict[tuple[str, ...], _C] = {}

    @abstractmethod
    def _new(self, labels: str) -> _C:
        """A child at 0; `labels` as they are written, without braces."""

    def start(self, *values: str) -> None:
        """Have a child with these label values."""
        self._child(values)

    def forget(self, model: str) -> None:
        """Drop every child of a model."""
        if MODEL in self.labels:
            at = self.labels.index(MODEL)
            for values in [values for values in self._children if values[at] == model]:
                del self._children[values]

    def write(self, *, openmetrics: bool) -> Iterator[str]:
        """The family in a text format of Prometheus. OpenMetrics names a counter without its
        suffix, and samples as ever."""
        name = self.name.removesuffix("_total") if openmetrics else self.name
        yield f"# HELP {name} {self._help}\n# TYPE {name} {self.kind}\n"
        for child in self._children.values():
            yield child.text()

    def _child(self, values: tuple[str, ...]) -> _C:
        child = self._children.get(values)
        if child is None:
            named = zip(self.labels, values, strict=True)
            labels = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in named)
            child = self._children[values] = self._new(labels)
        return child


class Count:
    """A counter's child."""

    def __init__(self, series: str) -> None:
        self._series = series
        self.value = 0

    def text(self) -> str:
        return f"{self._series} {self.value}\n"


class Counter(Family[Count]):
    """Whole numbers that only grow."""

    kind = "counter"

    def add(self, amount: int, *values: str) -> None:
        self._child(values).value += amount

    def _new(self, labels: str) -> Count:
        return Count(f"{self.name}{{{labels}}}")


class Distribution:
    """A histogram's child. `counts` are of each bucket alone, the last one's bound is infinite."""

    def __init__(self, buckets: Sequence[str], count: str, sum_: str) -> None:
        self._buckets = buckets
        self._count = count
        self._sum = sum_
        self.counts = [0] * len(buckets)
        self.sum = 0.0

    def text(self) -> str:
        sums = list(accumulate(self.counts))
        lines = [f"{series} {n}\n" for series, n in zip(self._buckets, sums, strict=True)]
        return f"{''.join(lines)}{self._count} {sums[-1]}\n{self._sum} {self.sum}\n"


class Histogram(Family[Distribution]):
    """How often which size came. A bucket holds what is at most its bound."""

    kind = "histogram"

    def __init__(
        self, name: str, help: str, labels: Sequence[str], bounds: Sequence[float]
    ) -> None:
        """`bounds` ascend, without the infinite one."""
        super().__init__(name, help, labels)
        self._bounds = tuple(map(float, bounds))

    def observe(self, sizes: Iterable[float | None], *values: str) -> None:
        """Count each size; None is not one."""
        child = self._child(values)
        counts, bounds = child.counts, self._bounds
        known = [size for size in sizes if size is not None]
        for size in known:
            counts[bisect_left(bounds, size)] += 1
        child.sum += sum(known)

    def _new(self, labels: str) -> Distribution:
        bounds = [*map(repr, self._bounds), "+Inf"]
        return Distribution(
            [f'{self.name}_bucket{{{labels},le="{bound}"}}' for bound in bounds],
            f"{self.name}_count{{{labels}}}",
            f"{self.name}_sum{{{labels}}}",
        )

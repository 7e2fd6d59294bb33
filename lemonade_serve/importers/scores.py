"""How well a model foretells a text, and how near one model is to another.

The text is `passage.txt`: the beginnings of Alice's Adventures in Wonderland (Carroll, 1865), On
the Origin of Species (Darwin, 1859) and The Hound of the Baskervilles (Doyle, 1902), all in the
public domain. Any text and any two models will do.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

Ids: TypeAlias = npt.NDArray[np.int32]
Logits: TypeAlias = npt.NDArray[np.float32]


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """A model against a reference, over the positions of a text.

    `agreement` is the share of the positions at which both think the same token the likeliest.
    """

    positions: int
    perplexity: float
    reference_perplexity: float
    agreement: float

    @property
    def ratio(self) -> float:
        """How much worse its perplexity is; 1 is as good. Not a number where one of them is not."""
        return self.perplexity / self.reference_perplexity


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """What a model says of each token of a text but the first: its loss (nats, float64 `[n]`), and
    which token it thought the likeliest (`[n]`)."""

    losses: npt.NDArray[np.float64]
    likeliest: npt.NDArray[np.intp]

    @property
    def perplexity(self) -> float:
        return float(np.exp(self.losses.mean()))


def passage_ids(tokenizer_json: Path) -> Ids:
    """The shipped text as a checkpoint's tokenizer has it, `[n]`; a few hundred."""
    text = files(__package__).joinpath("passage.txt").read_text("utf-8")
    return np.array(Tokenizer.from_file(str(tokenizer_json)).encode(text).ids, np.int32)


def score(rows: Iterable[Logits], ids: Ids) -> Scores:
    """`rows` are the logits after each token, some `[k, vocabulary]` at a time and in order; those
    after the last token are not looked at."""
    losses, likeliest, at = [], [], 1
    for some in rows:
        wide = some[: len(ids) - at].astype(np.float64)
        top = wide.max(axis=-1)
        total = np.log(np.exp(wide - top[:, None]).sum(axis=-1)) + top
        losses.append(total - wide[np.arange(len(wide)), ids[at : at + len(wide)]])
        likeliest.append(wide.argmax(axis=-1))
        at += len(wide)
    return Scores(losses=np.concatenate(losses), likeliest=np.concatenate(likeliest))


def compare(made: Scores, reference: Scores) -> Quality:
    """Both of the same ids."""
    return Quality(
        positions=len(made.losses),
        perplexity=made.perplexity,
        reference_perplexity=reference.perplexity,
        agreement=float((made.likeliest == reference.likeliest).mean()),
    )

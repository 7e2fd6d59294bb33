"""The real checkpoint many times over: under other names, and spoilt in every way that a test
needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from tests import checkpoints
from tests.daemon import MODEL

TWIN = "twin"
"""The same again."""
PAIR = "pair"
"""The same in int8, and once more as what calls itself int4."""
SHORT = "short"
"""Has a context of `SHORT_CONTEXT` tokens."""
BASE = "base"
"""Has no chat template."""
CUT = "cut"
"""Half of its weights are missing: it cannot be loaded."""
BENT = "bent"
"""Loads, and computes no numbers."""
HUGE = "huge"
"""Fits on no device of this world."""
GUEST = "guest"
"""Lies elsewhere: in the other directory that a client may name."""
SHORT_CONTEXT = 64


class Gallery:
    """`root` is a cache directory with all of these but the guest; `elsewhere` has the guest, and a
    link `way-out` that leads to `outside`, where no client may look."""

    def __init__(self, directory: Path, cache_dir: Path) -> None:
        self.root = directory / "gallery"
        self.elsewhere = directory / "elsewhere"
        self.outside = directory / "outside"
        self._source = checkpoints.original(cache_dir)
        for name in (f"{MODEL}/int8", TWIN, f"{PAIR}/int8"):
            self._hang(self.root / name)
        self._hang(self.root / PAIR / "int4", **{"provenance.json": b'{"dtype": "int4"}'})
        self._hang(
            self.root / SHORT, **checkpoints.config(self._source, context_length=SHORT_CONTEXT)
        )
        self._hang(self.root / BASE, **{"tokenizer_config.json": b"{}"})
        self._hang(self.root / CUT, **{"model.onnx.data": b"no weights"})
        self._hang(self.root / BENT, **{"model.onnx": self._bent()})
        with (self._hang(self.root / HUGE) / "sparse").open("wb") as file:
            file.truncate(1 << 40)
        self._hang(self.elsewhere / GUEST)
        self.outside.mkdir()
        (self.elsewhere / "way-out").symlink_to(self.outside)

    def _hang(self, target: Path, **replaced: bytes) -> Path:
        return checkpoints.link(self._source, target, replaced)

    def _bent(self) -> bytes:
        """The last normalisation multiplies with what is no number, and so all logits are none."""
        model = onnx.load(self._source / "model.onnx", load_external_data=False)
        (norm,) = (one for one in model.graph.initializer if one.name == "output_norm.weight")
        norm.raw_data = np.full(tuple(norm.dims), np.nan, np.float32).tobytes()
        content: bytes = model.SerializeToString()
        return content

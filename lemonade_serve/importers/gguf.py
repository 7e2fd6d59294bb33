"""Import a GGUF file: an ONNX GenAI checkpoint from it, without torch and as faithful as can be.

The stages, each a module: `container` maps the file, `architectures` say what decoder it is,
`plan` chooses a form (`blocks`) and a place for every matrix, `weights` writes them, `tokenizer`,
`graph` and `configuration` the rest.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Final

import msgspec

from lemonade_serve.errors import DiskFull, JobFailed
from lemonade_serve.importers.architectures.table import describe
from lemonade_serve.importers.blocks import is_lossless
from lemonade_serve.importers.configuration import MODEL_NAME, write_genai_config
from lemonade_serve.importers.container import Container
from lemonade_serve.importers.graph import build
from lemonade_serve.importers.nodes import DATA_NAME
from lemonade_serve.importers.plan import Plan, plan
from lemonade_serve.importers.tokenizer import write_tokenizer
from lemonade_serve.importers.vocabulary import read_vocabulary
from lemonade_serve.importers.weights import vector, write_data

Progress = Callable[[str, float], None]

_HASH_CHUNK: Final = 1 << 22
_HASH_SHARE: Final = 4  # hashing a byte takes about a quarter of converting it

_STEP: Final = 0.002  # the smallest progress worth a message

_QUANTISATION: Final = re.compile(r"[-._](I?Q\d+(_[A-Z0-9]+)*|B?F16|F32|FP16|FP32)$", re.IGNORECASE)
_DIGEST: Final = re.compile(r"[0-9a-f]{16,}|sha256-.*")  # how caches of other tools name files
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")


class ImportReport(msgspec.Struct, frozen=True, kw_only=True):
    """Where a checkpoint came from and what was done to it; `provenance.json` holds the same.

    `dtype` is what the layers' matrices are, `requested_dtype` what was asked for. `lossless` and
    `requantised` count matrices that hold exactly what the file holds, and those rounded to 8 bit.
    `source_types` counts the file's tensors by type, `forms` the checkpoint's matrices by form.
    `bytes` is the size of the checkpoint without `provenance.json`.
    """

    name: str
    architecture: str
    dtype: str
    requested_dtype: str
    parameters: int
    context_length: int
    vocabulary_size: int
    bytes: int
    lossless: int
    requantised: int
    source_types: dict[str, int]
    forms: dict[str, int]
    source_file: str
    source_bytes: int
    source_sha256: str
    license: str | None
    importer: str


def import_gguf(
    source: Path, into: Path, *, dtype: str = "auto", progress: Progress
) -> ImportReport:
    """Write a complete checkpoint into the existing, empty directory `into`.

    `dtype` is `auto`, `fp32`, `int8` or `int4` (see `plan`). `progress` gets the stage's name and
    the fraction of the whole job that is done, which never falls.

    Errors: `UnsupportedModel` for a file that is damaged or cannot be converted faithfully,
    `InvalidRequest` for an unknown dtype, `DiskFull`, which a checkpoint that cannot fit is before
    it is begun, `JobFailed` if reading or writing fails otherwise.
    """
    try:
        return _Import(source, into, dtype, progress).run()
    except OSError as error:
        why = JobFailed(f"cannot import {source.name}: {error.strerror or error}")
        raise DiskFull.by(error, into.parent) or why from error


class _Progress:
    """Turns work done into one rising fraction. Weights are bytes read, hashed or written."""

    def __init__(self, report: Progress, total: int) -> None:
        self._report = report
        self._total = max(total, 1)
        self._done = 0
        self._told = 0.0
        self._stage = ""

    def enter(self, stage: str) -> None:
        self._stage = stage
        self._report(stage, self._fraction)

    def advance(self, work: int) -> None:
        self._done += work
        if self._fraction >= self._told + _STEP:
            self._told = self._fraction
            self._report(self._stage, self._told)

    def finish(self) -> None:
        self._report("done", 1.0)

    @property
    def _fraction(self) -> float:
        return min(self._done / self._total, 1.0)


class _Import:
    """One import, step by step."""

    def __init__(self, source: Path, into: Path, dtype: str, progress: Progress) -> None:
        self._into = into
        self._dtype = dtype
        progress("read", 0.0)
        self._container = Container(source)
        self._decoder = describe(self._container)
        self._plan = plan(self._decoder, self._container, dtype)
        self._vocabulary = read_vocabulary(self._container.metadata, self._decoder.vocabulary)
        # The tokenizer's and the graph's shares: about as long as so many bytes take to convert.
        per_token = 1000 if self._vocabulary.sentencepiece else 300
        self._tokenizer_work = per_token * len(self._vocabulary.tokens)
        self._graph_work = self._plan.nbytes // 50
        work = (
            self._tokenizer_work
            + self._graph_work
            + self._plan.nbytes
            + self._container.size // _HASH_SHARE
        )
        self._progress = _Progress(progress, work)

    def run(self) -> ImportReport:
        self._check_room()
        self._write_tokenizer()
        self._write_weights()
        self._write_graph()
        digest = self._digest()
        report = self._report(digest)
        text = msgspec.json.format(msgspec.json.encode(report), indent=2)
        (self._into / "provenance.json").write_bytes(text + b"\n")
        self._progress.finish()
        return report

    def _check_room(self) -> None:
        wanted, free = self._plan.nbytes, shutil.disk_usage(self._into).free
        if wanted > free:
            raise DiskFull(
                f"{self._container.path.name} needs {wanted / 1e9:.2f} GB on the disk of "
                f"{self._into.parent}, which has {free / 1e9:.2f} GB free"
            )

    def _write_tokenizer(self) -> None:
        self._progress.enter("tokenizer")
        metadata, context = self._container.metadata, self._decoder.context
        write_tokenizer(self._into, self._vocabulary, metadata, context)
        self._progress.advance(self._tokenizer_work)

    def _write_weights(self) -> None:
        self._progress.enter("weights")
        path = self._into / DATA_NAME
        write_data(path, self._plan, self._decoder, self._container, self._progress.advance)

    def _write_graph(self) -> None:
        self._progress.enter("graph")
        model = build(self._decoder, self._plan, lambda name: vector(self._container, name))
        (self._into / MODEL_NAME).write_bytes(model.SerializeToString())
        write_genai_config(self._into, self._decoder, self._vocabulary)
        self._progress.advance(self._graph_work)

    def _digest(self) -> str:
        self._progress.enter("digest")
        digest = hashlib.sha256()
        with self._container.path.open("rb", buffering=0) as file:
            while chunk := file.read(_HASH_CHUNK):
                digest.update(chunk)
                self._progress.advance(len(chunk) // _HASH_SHARE)
        return digest.hexdigest()

    def _report(self, digest: str) -> ImportReport:
        container, metadata = self._container, self._container.metadata
        forms, lossless = _count_forms(self._plan)
        return ImportReport(
            name=suggested_name(container),
            architecture=self._decoder.architecture,
            dtype=self._plan.dtype,
            requested_dtype=self._dtype,
            parameters=sum(prod(shape) for _, shape in self._decoder.shapes()),
            context_length=self._decoder.context,
            vocabulary_size=self._decoder.vocabulary,
            bytes=sum(path.stat().st_size for path in self._into.iterdir()),
            lossless=lossless,
            requantised=sum(forms.values()) - lossless,
            source_types=dict(Counter(tensor.type.name for tensor in container.tensors.values())),
            forms=forms,
            source_file=container.path.name,
            source_bytes=container.size,
            source_sha256=digest,
            license=metadata.text("general.license", "") or None,
            importer=f"lemonade-serve {version('lemonade-serve')}",
        )


def _count_forms(chosen: Plan) -> tuple[dict[str, int], int]:
    """Matrices by form, and how many of them are lossless. Counted by tensor, not by stack."""
    tensors = {part.tensor.name: (part.tensor.type, matrix.form) for matrix in chosen.matrices()
               for part in matrix.sources}  # fmt: skip
    forms = Counter(form for _, form in tensors.values())
    lossless = sum(is_lossless(kind, form) for kind, form in tensors.values())
    return {form.value: count for form, count in forms.items()}, lossless


def suggested_name(container: Container) -> str:
    """A checkpoint name: the file's, without the quantisation at its end, else `general.name`.

    Files are named by hand and metadata by a converter: the former reads better.
    """
    stem = _QUANTISATION.sub("", container.path.name.removesuffix(".gguf"))
    if _DIGEST.fullmatch(stem):
        stem = container.metadata.text("general.name", "model")
    return _UNSAFE.sub("-", stem).strip("-.") or "model"

"""Which files of a repository are fetched: pure, from what it lists."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

import msgspec

from lemonade_serve.domain import exports, weights
from lemonade_serve.domain.checkpoint import AUTO, DTYPES
from lemonade_serve.errors import DeviceUnavailable, InvalidRequest, UnsupportedModel
from lemonade_serve.protocol.jobs import Repository, RepositoryFile

CONFIG = "genai_config.json"


class Kind(Enum):
    """What is fetched, and so what has to be done with it."""

    ONNX = "onnx"  # served as it is
    GGUF = "gguf"  # imported
    SAFETENSORS = "safetensors"  # converted
    ENCODER = "encoder"  # converted, from safetensors too


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What whoever pulls says: patterns of paths, of which one must match; a dtype, or `auto`;
    and the execution providers that there are here, the preferred one first."""

    include: tuple[str, ...] = ()
    dtype: str = AUTO
    providers: tuple[str, ...] = ("cpu",)


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Files, and the folder that they are in: "" is all of the repository's."""

    kind: Kind
    files: tuple[RepositoryFile, ...]
    folder: str = ""

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)


_PROVIDERS: Mapping[str, frozenset[str]] = {
    "cpu": frozenset({"cpu", "mobile"}),
    "cuda": frozenset({"cuda", "gpu", "nvtensorrtrtx", "trtrtx"}),
    "dml": frozenset({"directml", "dml", "gpu"}),
    "webgpu": frozenset({"webgpu", "gpu"}),
    "openvino": frozenset({"openvino", "ov"}),
    "vitisai": frozenset({"vitisai", "vitis", "npu", "hybrid", "ryzenai"}),
    "qnn": frozenset({"qnn", "npu"}),
    "rocm": frozenset({"rocm", "migraphx", "gpu"}),
}
"""Words in a variant's folder that say what it is for."""
_DTYPE_WORDS: Mapping[str, frozenset[str]] = {
    "int4": frozenset({"int4", "uint4", "q4", "4bit", "awq", "gptq", "rtn"}),
    "int8": frozenset({"int8", "uint8", "q8", "8bit"}),
    "fp16": frozenset({"fp16", "float16", "f16", "half"}),
    "bf16": frozenset({"bf16", "bfloat16"}),
    "fp32": frozenset({"fp32", "float32", "f32"}),
}

_GGUF_PREFERENCES: Mapping[str, tuple[str, ...]] = {
    AUTO: (
        *("Q4_0", "Q4_K_M", "Q4_K_S", "Q4_1", "Q8_0", "Q5_0", "Q5_K_M", "Q5_K_S", "Q5_1", "Q6_K"),
        *("F16", "BF16", "F32"),
    ),
    "int4": ("Q4_0", "Q4_K_M", "Q4_K_S", "Q4_1"),
    "int8": ("Q8_0", "Q6_K", "Q5_0", "Q5_1", "Q5_K_M", "Q5_K_S", "F16", "BF16", "F32"),
    "fp32": ("F32", "BF16", "F16", "Q8_0"),
}
"""Quantisations that the importer reads, by what is wanted; `Q4_0` is exact at 4 bit."""
_QUANTISATION = re.compile(r"(?:^|[-._])((?:I?Q\d|F16|F32|BF16|FP16|FP32)\w*)$", re.IGNORECASE)
_PART = re.compile(r"-\d{5}-of-\d{5}$")
_NOT_A_MODEL = re.compile(r"mmproj|imatrix", re.IGNORECASE)

_LEFT_OUT = (
    *("*.md", "*.safetensors", "*.safetensors.index.json", "*.gguf", "*.pt", "*.pth", "*.h5"),
    *("*.msgpack", "*.png", "*.jpg", "*.jpeg", "*.gif", "*.svg", "*.pdf", "*.ipynb", "*.zip"),
    *("pytorch_model*", "provenance.json"),
)
"""No part of a variant, by its name."""


def select(repository: Repository, wanted: Wanted) -> Selection:
    """The variant for a device and a dtype, an encoder's graph, the GGUF file, or what has to be
    converted.

    Raises UnsupportedModel for what cannot be served, DeviceUnavailable for a device or a dtype
    that it is not there for, InvalidRequest for patterns that nothing matches; with what there is.
    """
    files = [file for file in repository.files if _matches(file.path, wanted.include)]
    if wanted.include and not files:
        raise InvalidRequest(
            f"{repository.name} has no file that matches {', '.join(wanted.include)}: it has "
            f"{_some(file.path for file in repository.files)}",
            param="include",
        )
    folders = _variants(files)
    if folders:
        return _select_variant(repository, files, folders, wanted)
    if exports.encodes(repository) and (graphs := exports.graphs(files)):
        graph = exports.choose(repository.name, graphs, wanted.dtype)
        return Selection(kind=Kind.ONNX, files=exports.files_of(repository, graph))
    ggufs = [f for f in files if f.path.endswith(".gguf") and not _NOT_A_MODEL.search(f.path)]
    if ggufs:
        return _select_gguf(repository.name, ggufs, wanted.dtype)
    if weights.has_safetensors(files):
        encoder = exports.exportable(repository)
        about = exports.DESCRIBING if encoder else weights.DESCRIBING
        chosen = weights.choose(repository.name, repository.files, about)
        return Selection(kind=Kind.ENCODER if encoder else Kind.SAFETENSORS, files=chosen)
    raise UnsupportedModel(f"{repository.name} cannot be served: {_why_not(files)}")


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(path, pattern) for pattern in patterns)


def _variants(files: Sequence[RepositoryFile]) -> list[str]:
    """The folders that hold a checkpoint; "" is the repository's own."""
    return [
        str(PurePosixPath(file.path).parent).removeprefix(".")
        for file in files
        if PurePosixPath(file.path).name == CONFIG
    ]


def _select_variant(
    repository: Repository, files: Sequence[RepositoryFile], folders: list[str], wanted: Wanted
) -> Selection:
    fitting = [(folder, *_fitness(repository.name, folder, wanted)) for folder in folders]
    placed = [one for one in fitting if one[1] is not None]
    if not placed:
        raise DeviceUnavailable(
            f"{repository.name} has nothing for {', '.join(wanted.providers)}: it has "
            f"{_some(folders)}; name one with --include 'FOLDER/*'",
            param="include",
        )
    typed = [one for one in placed if one[2] is not None]
    if not typed:
        raise DeviceUnavailable(
            f"{repository.name} has no {wanted.dtype} for {', '.join(wanted.providers)}: it has "
            f"{_some(folder for folder, *_ in placed)}",
            param="dtype",
        )
    folder = min(typed, key=lambda one: (one[1], one[2], one[0]))[0]
    inner = [f"{other}/" for other in folders if other != folder and _is_in(other, folder)]
    chosen = tuple(
        file
        for file in files
        if _is_in(file.path, folder)
        and not any(file.path.startswith(other) for other in inner)
        and not _is_left_out(file.path)
    )
    return Selection(kind=Kind.ONNX, files=chosen, folder=folder)


def _fitness(name: str, folder: str, wanted: Wanted) -> tuple[int | None, int | None]:
    """How well a variant fits the devices and the dtype, less being better; None: not at all.

    What the folder does not say, the repository's name may; what neither says may be right.
    """
    words = _words(folder)
    for_providers = {p for p, known in _PROVIDERS.items() if known & words}
    if wanted.include or not for_providers:
        place: int | None = len(wanted.providers)
    else:
        place = next((n for n, p in enumerate(wanted.providers) if p in for_providers), None)
    dtypes = _dtypes(words) or _dtypes(_words(name))
    if not dtypes:
        return place, len(DTYPES)
    if wanted.dtype == AUTO:
        return place, min(DTYPES.index(dtype) for dtype in dtypes)
    return place, 0 if wanted.dtype in dtypes else None


def _words(text: str) -> frozenset[str]:
    return frozenset(re.split(r"[^a-z0-9]+", text.lower()))


def _dtypes(words: frozenset[str]) -> set[str]:
    found = {dtype for dtype, known in _DTYPE_WORDS.items() if known & words}
    return {"int4"} if "int4" in found else found  # `int4-fp16`: matrices, then activations


def _is_in(path: str, folder: str) -> bool:
    return not folder or path.startswith(f"{folder}/")


def _is_left_out(path: str) -> bool:
    name = PurePosixPath(path).name
    return name.startswith(".") or any(fnmatchcase(name, pattern) for pattern in _LEFT_OUT)


def _select_gguf(name: str, files: Sequence[RepositoryFile], dtype: str) -> Selection:
    preferred = _GGUF_PREFERENCES.get(dtype, ())
    by_kind: dict[str, RepositoryFile] = {}
    parts = []
    for file in sorted(files, key=lambda file: file.path):
        stem = PurePosixPath(file.path).name.removesuffix(".gguf")
        if _PART.search(stem):
            parts.append(file.path)
        else:
            by_kind.setdefault(_quantisation(stem), file)
    for quantisation in preferred:
        if quantisation in by_kind:
            return _alone(by_kind[quantisation])
    if len(files) == 1 and not parts and "" in by_kind:  # it says nothing; the importer will
        return _alone(by_kind[""])
    if parts and not by_kind:
        raise UnsupportedModel(f"{name} has GGUF files in parts, which cannot be imported yet")
    wanted = ", ".join(preferred) or "none of them"
    raise DeviceUnavailable(
        f"{name} has no GGUF file for dtype {dtype}, which can be made of {wanted}: it has "
        f"{_some(file.path for file in files)}",
        param="dtype",
    )


def _alone(file: RepositoryFile) -> Selection:
    return Selection(kind=Kind.GGUF, files=(file,))


def _quantisation(stem: str) -> str:
    found = _QUANTISATION.search(stem)
    return found[1].upper().replace("FP", "F") if found else ""


def _why_not(files: Sequence[RepositoryFile]) -> str:
    names = [file.path for file in files]
    if any(name.endswith(".onnx") for name in names):
        return (
            f"its ONNX files come without the {CONFIG} of ONNX Runtime GenAI, and an encoder would "
            f"generate nothing and have a {exports.TOKENIZER} and a {exports.CONFIG}"
        )
    return f"it has no {CONFIG}, no GGUF file and no safetensors, but {_some(names) or 'nothing'}"


def _some(names: Iterable[str], at_most: int = 12) -> str:
    """For a message."""
    known = sorted(set(names))
    more = f" and {len(known) - at_most} more" if len(known) > at_most else ""
    return ", ".join(name or "(the top)" for name in known[:at_most]) + more

"""Encoders as their repositories have them: one network as several ONNX graphs, and which of them
is which. Pure, from the names that optimum, sentence-transformers and transformers.js give them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from lemonade_serve.domain.checkpoint import AUTO
from lemonade_serve.errors import DeviceUnavailable
from lemonade_serve.protocol.jobs import Repository, RepositoryFile

GENERATING = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForSpeechSeq2Seq")
"""How the architectures end that are no encoders."""
_ENCODING = ("Model", "ForMaskedLM", "ForSequenceClassification")
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
MODULES = "modules.json"

_FOLDERS = ("onnx", "")
_USUAL = "fp32"
_GRAPHS: Mapping[str, Sequence[str]] = {
    "fp32": ("model", "model_o1", "model_o2", "model_o3", "model_fp32"),
    "fp16": ("model_fp16", "model_o4"),
    "int8": (
        *("model_quantized", "model_quint8_avx2", "model_uint8", "model_int8", "model_q8"),
        *("model_qint8_avx512_vnni", "model_qint8_avx512", "model_qint8_arm64"),
    ),
    "int4": ("model_q4", "model_q4f16"),
}
"""The preferred one first: of float32 the graph as it was exported, since ONNX Runtime optimises it
when it loads it; of 8 bits those that are exact on any processor before those that overflow where
one lacks an instruction."""
DESCRIBING = (
    *(CONFIG, TOKENIZER, MODULES, "tokenizer_config.json", "special_tokens_map.json", "LICENSE*"),
    *("sentence_bert_config.json", "config_sentence_transformers.json", "[0-9]*_*/config.json"),
)
_NO_WEIGHTS = re.compile(r"\.onnx|\.(json|txt|model|md|py)$", re.IGNORECASE)


def encodes(repository: Repository) -> bool:
    """Whether its networks are encoders, which their tokenizer and configuration make usable."""
    names = {file.path for file in repository.files}
    if not names >= {CONFIG, TOKENIZER}:
        return False
    generates = any(one.endswith(GENERATING) for one in repository.architectures)
    return MODULES in names or not generates


def exportable(repository: Repository) -> bool:
    """Whether its weights are an encoder's, for all that is known."""
    return is_encoder(
        repository.architectures, modules=any(f.path == MODULES for f in repository.files)
    )


def is_encoder(architectures: Iterable[str], *, modules: bool) -> bool:
    """Whether a network is one: sentence-transformers made it one, with its `modules`, or its
    `config.json` says so."""
    return modules or any(one.endswith(_ENCODING) for one in architectures)


def graphs(files: Iterable[RepositoryFile]) -> list[RepositoryFile]:
    """Those that may be an encoder's."""
    return [
        file for file in files if file.path.endswith(".onnx") and _folder(file.path) in _FOLDERS
    ]


def choose(name: str, found: Sequence[RepositoryFile], dtype: str) -> RepositoryFile:
    """The graph in a dtype; `auto` is float32, which everybody else's vectors are of: those of
    another dtype are others. One that is alone may be called anything.

    Raises DeviceUnavailable, with what there is.
    """
    if len(found) == 1 and (dtype == AUTO or not _dtype(found[0])):
        return found[0]
    dtype = _USUAL if dtype == AUTO else dtype
    by_place = {(_folder(file.path), _stem(file)): file for file in found}
    for stem in _GRAPHS.get(dtype, ()):
        for folder in _FOLDERS:
            if chosen := by_place.get((folder, stem)):
                return chosen
    has = ", ".join(f"{file.path} ({_dtype(file) or 'unknown'})" for file in found)
    raise DeviceUnavailable(
        f"{name} has no ONNX graph in {dtype}: it has {has}; name one with --include",
        param="dtype",
    )


def files_of(repository: Repository, graph: RepositoryFile) -> tuple[RepositoryFile, ...]:
    """All that a graph needs: its weights outside of it, and what describes it."""
    return tuple(
        file
        for file in repository.files
        if any(fnmatchcase(file.path, pattern) for pattern in DESCRIBING)
        or _belongs(file.path, graph.path)
    )


def _belongs(path: str, graph: str) -> bool:
    """Weights outside of a graph are called after it, or, in a folder for graphs, anything."""
    if path.startswith(graph):
        return True
    folder = _folder(graph)
    return bool(folder) and _folder(path) == folder and not _NO_WEIGHTS.search(path)


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _stem(file: RepositoryFile) -> str:
    return PurePosixPath(file.path).stem.lower()


def _dtype(file: RepositoryFile) -> str:
    """As its name says; "" where it does not."""
    return next((dtype for dtype, stems in _GRAPHS.items() if _stem(file) in stems), "")

"""Encoders on disk: embedding models and rerankers, as sentence-transformers and optimum lay them
out.

A directory with a `config.json`, a `tokenizer.json` and an ONNX graph: `onnx/model.onnx`,
`model.onnx`, or the only one there is. `modules.json` says what follows the graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from lemonade_serve.domain.exports import CONFIG, GENERATING, MODULES, TOKENIZER, is_encoder
from lemonade_serve.errors import ModelLoadError
from lemonade_serve.hub.matrices import dtype_of, outside, read_graph
from lemonade_serve.protocol.messages import Encoder

if TYPE_CHECKING:
    from onnx import GraphProto

_GRAPHS = ("onnx/model.onnx", "model.onnx")
_CLASSIFYING = "ForSequenceClassification"
_POOLED = "sentence_embedding"
"""The output of a graph that has all modules in it."""
_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids", "position_ids"})
_COUNTS_FROM_PADDING = frozenset({"camembert", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl"})
"""Their first position comes after that of padding."""
_LEAST_LIMIT = 512
"""Of a model that says nothing of how much it can read."""
_MIXING = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul"})
"""Operators that scale all rows of a batch by the largest number in any of them."""

Pooling = Literal["mean", "cls", "last", "max", "none"]

_POOLINGS: dict[str, Pooling] = {
    "mean": "mean",
    "mean_tokens": "mean",
    "cls": "cls",
    "cls_token": "cls",
    "lasttoken": "last",
    "max": "max",
    "max_tokens": "max",
}
"""As sentence-transformers calls them, of late and before."""

_T = TypeVar("_T")


class _Config(msgspec.Struct):
    model_type: str = "encoder"
    architectures: list[str] | None = None
    max_position_embeddings: int | None = None
    pad_token_id: int | None = None
    num_labels: int | None = None
    id2label: dict[str, Any] | None = None
    matryoshka_dimensions: list[int] | None = None
    hidden_size: int | None = None
    dim: int | None = None
    intermediate_size: int | None = None
    hidden_dim: int | None = None
    num_attention_heads: int | None = None
    n_heads: int | None = None

    @property
    def architecture(self) -> str:
        return (self.architectures or [""])[0]

    @property
    def reranks(self) -> bool:
        return self.architecture.endswith(_CLASSIFYING)

    @property
    def positions(self) -> int | None:
        """How many tokens the model has positions for."""
        if self.max_position_embeddings is None or self.model_type not in _COUNTS_FROM_PADDING:
            return self.max_position_embeddings
        return self.max_position_embeddings - 1 - (self.pad_token_id or 0)

    @property
    def width(self) -> int:
        hidden = self.hidden_size or self.dim or 0
        return 4 * hidden + 2 * (self.intermediate_size or self.hidden_dim or 4 * hidden)


class _Module(msgspec.Struct):
    type: str
    path: str = ""

    @property
    def kind(self) -> str:
        return self.type.rpartition(".")[2]


class _Reading(msgspec.Struct):
    """`sentence_bert_config.json`."""

    max_seq_length: int | None = None
    do_lower_case: bool = False


class _Prompts(msgspec.Struct):
    """`config_sentence_transformers.json`."""

    prompts: dict[str, str] = {}
    default_prompt_name: str | None = None


class _Tokenizer(msgspec.Struct):
    """`tokenizer_config.json`; a limit that is none is written as a huge number."""

    model_max_length: int | float | None = None


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """What the directory of an encoder holds."""

    encoder: Encoder
    architecture: str
    dtype: str
    bytes: int
    """Of the graph and its weights."""


def changed(path: Path) -> int | None:
    """When an encoder's directory last changed, in nanoseconds of Unix time; None if it is none.

    A directory is one if it has a graph and does not generate, or if sentence-transformers wrote
    it.
    """
    try:
        times = [(path / CONFIG).stat().st_mtime_ns]
        graphs = _graphs(path)
        if not (path / MODULES).exists():
            config = _read(path / CONFIG, _Config)
            generates = config.architecture.endswith(GENERATING)
            if generates or not (graphs or config.reranks):
                return None
        return max(times + [graph.stat().st_mtime_ns for graph in graphs])
    except (OSError, msgspec.DecodeError):
        return None


def weighs(path: Path) -> bool:
    """Whether a directory of weights without a graph is an encoder's. Raises ModelLoadError."""
    try:
        config = _read(path / CONFIG, _Config)
    except (OSError, msgspec.DecodeError) as error:
        raise ModelLoadError(f"{path}: {error}") from error
    return is_encoder(config.architectures or (), modules=(path / MODULES).exists())


def describe(path: Path) -> Described:
    """Raises ModelLoadError, naming what is missing or not understood; OSError and DecodeError."""
    config = _read(path / CONFIG, _Config)
    file = _graph(path)
    if not (path / TOKENIZER).exists():
        raise ModelLoadError(f"an encoder needs its {TOKENIZER}, which is missing")
    graph = read_graph(file)
    _check_inputs(graph)
    outputs = {output.name for output in graph.output}
    modules = _read_if_there(path / MODULES, list[_Module], [])
    reading = _read_if_there(path / "sentence_bert_config.json", _Reading, _Reading())
    if config.reranks:
        _check_labels(config)
    elif outputs == {"logits"}:
        raise ModelLoadError("its graph gives logits and no vectors: nothing here serves it")
    encoder = Encoder(
        task="rerank" if config.reranks else "embedding",
        graph=str(file.relative_to(path)),
        max_tokens=_limit(path, config, reading),
        pooling="none" if config.reranks or _POOLED in outputs else _pooling(path, modules),
        normalized=not modules or any(module.kind == "Normalize" for module in modules),
        lowercase=reading.do_lower_case,
        prompt="" if config.reranks else _prompt(path),
        dimensions=tuple(sorted(config.matryoshka_dimensions or ())),
        heads=config.num_attention_heads or config.n_heads or 0,
        width=config.width,
        alone=any(node.op_type in _MIXING for node in graph.node),
    )
    return Described(
        encoder=encoder,
        architecture=config.model_type,
        dtype=dtype_of(graph, file),
        bytes=_size(file, outside(graph)),
    )


def _graphs(path: Path) -> list[Path]:
    return sorted([*path.glob("*.onnx"), *path.glob("onnx/*.onnx")])


def _graph(path: Path) -> Path:
    if usual := [path / name for name in _GRAPHS if (path / name).exists()]:
        return usual[0]
    found = _graphs(path)
    if not found:
        raise ModelLoadError(
            f"there is no ONNX graph: {' or '.join(_GRAPHS)} is missing (optimum exports one)"
        )
    if len(found) > 1:
        names = ", ".join(str(graph.relative_to(path)) for graph in found)
        raise ModelLoadError(f"there are several graphs, and none is called model.onnx: {names}")
    return found[0]


def _size(graph: Path, weights: frozenset[str]) -> int:
    """Of both, in bytes. Raises ModelLoadError for weights that are missing."""
    files = [graph, *(graph.parent / name for name in sorted(weights))]
    if missing := [file.name for file in files if not file.is_file()]:
        raise ModelLoadError(f"weights of {graph.name} are missing: {', '.join(missing)}")
    return sum(file.stat().st_size for file in files)


def _check_inputs(graph: GraphProto) -> None:
    constants = {constant.name for constant in graph.initializer}
    if strange := sorted({one.name for one in graph.input} - constants - _INPUTS):
        raise ModelLoadError(
            f"its graph wants {', '.join(strange[:4])}, and an encoder's nothing but "
            f"{', '.join(sorted(_INPUTS))}"
        )


def _check_labels(config: _Config) -> None:
    labels = config.num_labels or len(config.id2label or {}) or 2
    if labels != 1:
        raise ModelLoadError(
            f"it is a classifier of {labels} labels, and a reranker has one: nothing here serves it"
        )


def _limit(path: Path, config: _Config, reading: _Reading) -> int:
    """Tokens of one input: what sentence-transformers would read of it."""
    said = _read_if_there(path / "tokenizer_config.json", _Tokenizer, _Tokenizer())
    limits = [reading.max_seq_length or said.model_max_length, config.positions]
    known = [int(limit) for limit in limits if limit is not None and 0 < limit < 1 << 24]
    return min(known, default=_LEAST_LIMIT)


def _pooling(path: Path, modules: list[_Module]) -> Pooling:
    """How a vector is made of those of all tokens. Without modules it is their mean, as
    sentence-transformers has it."""
    unknown = [m.kind for m in modules if m.kind not in ("Transformer", "Pooling", "Normalize")]
    if unknown:
        raise ModelLoadError(
            f"{MODULES} wants {', '.join(unknown)}, which the graph would have to contain: it has "
            f"no output {_POOLED}"
        )
    for module in modules:
        if module.kind == "Pooling":
            return _pooling_of(path / module.path / CONFIG)
    return "mean"


def _pooling_of(file: Path) -> Pooling:
    said = _read(file, dict[str, Any])
    prefix = "pooling_mode_"
    modes = [
        name.removeprefix(prefix) for name, on in said.items() if on is True and prefix in name
    ]
    if mode := said.get("pooling_mode"):
        modes = [mode] if isinstance(mode, str) else list(mode)
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        wanted = ", ".join(map(str, modes)) or "nothing"
        raise ModelLoadError(f"{file.parent.name}/{CONFIG} wants {wanted}: one of {_known()} works")
    return _POOLINGS[modes[0]]


def _known() -> str:
    return ", ".join(sorted(set(_POOLINGS.values())))


def _prompt(path: Path) -> str:
    said = _read_if_there(path / "config_sentence_transformers.json", _Prompts, _Prompts())
    return said.prompts.get(said.default_prompt_name or "", "")


def _read(file: Path, schema: type[_T]) -> _T:
    try:
        return msgspec.json.decode(file.read_bytes(), type=schema)
    except msgspec.DecodeError as error:
        raise msgspec.DecodeError(f"{file.name}: {error}") from error


def _read_if_there(file: Path, schema: type[_T], otherwise: _T) -> _T:
    return _read(file, schema) if file.exists() else otherwise

"""Small GGUF files with random weights, and what they hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGUFWriter, TokenType
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize

Floats = npt.NDArray[np.float32]

HIDDEN: Final = 256
FEED_FORWARD: Final = 512
HEADS: Final = 4
KV_HEADS: Final = 2
HEAD_SIZE: Final = 64
LAYERS: Final = 2
CONTEXT: Final = 64
EPSILON: Final = 1e-5


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """How large a model is."""

    hidden: int = HIDDEN
    feed_forward: int = FEED_FORWARD
    heads: int = HEADS
    kv_heads: int = KV_HEADS
    head_size: int = HEAD_SIZE
    layers: int = LAYERS
    context: int = CONTEXT


# Where a block keeps its fp16 scale and, if it has one, its fp16 minimum; and how large levels are.
_SCALES: Final = {
    Type.Q4_0: (0, None, 8), Type.Q5_0: (0, None, 16), Type.Q8_0: (0, None, 128),
    Type.Q4_1: (0, 2, 8), Type.Q5_1: (0, 2, 16), Type.Q4_K: (0, 2, 256), Type.Q5_K: (0, 2, 512),
    Type.Q6_K: (208, None, 2048), Type.Q2_K: (80, 82, 45), Type.Q3_K: (108, None, 128),
    Type.IQ4_NL: (0, None, 127), Type.IQ4_XS: (0, None, 4064),
}  # fmt: skip


def random_rows(
    rng: np.random.Generator, kind: Type, rows: int, columns: int
) -> npt.NDArray[np.uint8]:
    """Stored bytes `[rows, row_bytes]` of weights of about ±0.1."""
    if kind in (Type.F32, Type.F16, Type.BF16):
        values = rng.normal(0, 0.05, (rows, columns)).astype(np.float32)
        if kind is Type.BF16:
            return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        return values.astype(np.float16 if kind is Type.F16 else np.float32).view(np.uint8)
    per_block, block_bytes = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * columns // per_block, block_bytes), np.uint8)
    scale_at, minimum_at, largest = _SCALES[kind]
    scales = rng.uniform(0.05, 0.15, len(blocks)) / largest
    _store_halves(blocks, scale_at, scales)
    if minimum_at is not None:
        levels = {Type.Q2_K: 3, Type.Q4_1: 15, Type.Q4_K: 15}.get(kind, 31)
        spread = rng.uniform(0.3, 0.7, len(blocks)) * scales * levels
        _store_halves(blocks, minimum_at, spread if "K" in kind.name else -spread)
    return blocks.reshape(rows, -1)


def _store_halves(blocks: npt.NDArray[np.uint8], at: int, values: npt.NDArray[np.float64]) -> None:
    blocks[:, at : at + 2] = values.astype(np.float16)[:, None].view(np.uint8)


class Model:
    """A GGUF model in the making: change `metadata` or `tensors`, then `write`."""

    def __init__(
        self,
        architecture: str,
        kind: Type,
        *,
        tied: bool,
        seed: int = 3,
        shape: Shape | None = None,
    ) -> None:
        self.architecture = architecture
        self.kind = kind
        self.shape = shape or Shape()
        self.metadata = _common(architecture, self.shape) | _METADATA[architecture](self.shape)
        self.tokenizer: dict[str, Any] = _TOKENIZERS[architecture]()
        self._rng = np.random.default_rng(seed)
        self.tensors: dict[str, tuple[Type, tuple[int, ...], npt.NDArray[np.uint8]]] = {}
        self._fill(tied=tied)

    def add(self, name: str, *shape: int, kind: Type | None = None, mean: float = 0.0) -> None:
        """A random tensor; a vector is of floats around `mean`."""
        if len(shape) == 1:
            values = self._rng.normal(mean, 0.1, shape).astype(np.float32)
            self.tensors[name] = (Type.F32, shape, values.view(np.uint8))
            return
        kind = kind or self.kind
        self.tensors[name] = (kind, shape, random_rows(self._rng, kind, *shape))

    def floats(self) -> Mapping[str, Floats]:
        """Every tensor dequantised by the gguf package."""
        return {
            name: dequantize(rows, kind).reshape(shape)
            for name, (kind, shape, rows) in self.tensors.items()
        }

    def write(self, path: Path) -> Path:
        """Write the file."""
        writer = GGUFWriter(path, self.architecture)
        for key, value in (self.metadata | self.tokenizer).items():
            _ADDERS[type(value)](writer, key, value)
        for name, (kind, _, rows) in self.tensors.items():
            if kind in (Type.F32, Type.F16):
                writer.add_tensor(name, rows.view(np.float32 if kind is Type.F32 else np.float16))
            else:
                writer.add_tensor(name, rows, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def _fill(self, *, tied: bool) -> None:
        vocabulary, hidden = len(self.tokenizer["tokenizer.ggml.tokens"]), self.shape.hidden
        self.add("token_embd.weight", vocabulary, hidden)
        self.add("output_norm.weight", hidden, mean=1.0)
        if not tied:
            self.add("output.weight", vocabulary, hidden)
        for index in range(self.shape.layers):
            self._fill_layer(f"blk.{index}")

    def _fill_layer(self, prefix: str) -> None:
        shape, hidden = self.shape, self.shape.hidden
        self.add(f"{prefix}.attn_norm.weight", hidden, mean=1.0)
        self._fill_attention(prefix)
        self.add(f"{prefix}.attn_output.weight", hidden, shape.heads * shape.head_size)
        self.add(f"{prefix}.ffn_norm.weight", hidden, mean=1.0)
        if self.architecture == "phi3":
            self.add(f"{prefix}.ffn_up.weight", 2 * shape.feed_forward, hidden)
        else:
            self.add(f"{prefix}.ffn_gate.weight", shape.feed_forward, hidden)
            self.add(f"{prefix}.ffn_up.weight", shape.feed_forward, hidden)
        self.add(f"{prefix}.ffn_down.weight", hidden, shape.feed_forward)
        if self.architecture in ("gemma3", "qwen3"):
            self.add(f"{prefix}.attn_q_norm.weight", shape.head_size, mean=1.0)
            self.add(f"{prefix}.attn_k_norm.weight", shape.head_size, mean=1.0)
        if self.architecture == "gemma3":
            self.add(f"{prefix}.post_attention_norm.weight", hidden, mean=1.0)
            self.add(f"{prefix}.post_ffw_norm.weight", hidden, mean=1.0)

    def _fill_attention(self, prefix: str) -> None:
        shape = self.shape
        rows = [heads * shape.head_size for heads in (shape.heads, shape.kv_heads, shape.kv_heads)]
        if self.architecture == "phi3":
            self.add(f"{prefix}.attn_qkv.weight", sum(rows), shape.hidden)
            return
        for side, count in zip("qkv", rows, strict=True):
            self.add(f"{prefix}.attn_{side}.weight", count, shape.hidden)
            if self.architecture == "qwen2":
                self.add(f"{prefix}.attn_{side}.bias", count)


_ADDERS: Final[Mapping[type, Callable[[GGUFWriter, str, Any], None]]] = {
    int: GGUFWriter.add_uint32,
    float: GGUFWriter.add_float32,
    bool: GGUFWriter.add_bool,
    str: GGUFWriter.add_string,
    list: GGUFWriter.add_array,
}


def _common(name: str, shape: Shape) -> dict[str, Any]:
    return {
        "general.name": "A tiny one",
        "general.license": "apache-2.0",
        f"{name}.block_count": shape.layers,
        f"{name}.context_length": shape.context,
        f"{name}.embedding_length": shape.hidden,
        f"{name}.feed_forward_length": shape.feed_forward,
        f"{name}.attention.head_count": shape.heads,
        f"{name}.attention.head_count_kv": shape.kv_heads,
        f"{name}.attention.layer_norm_rms_epsilon": EPSILON,
    }


def _llama(shape: Shape) -> dict[str, Any]:
    return {"llama.rope.freq_base": 10_000.0} | _head_size("llama", shape)


def _head_size(name: str, shape: Shape) -> dict[str, Any]:
    """Where a head is not its share of the width, files say so."""
    if shape.heads * shape.head_size == shape.hidden:
        return {}
    return {
        f"{name}.attention.key_length": shape.head_size,
        f"{name}.attention.value_length": shape.head_size,
    }


def _gemma3(shape: Shape) -> dict[str, Any]:
    """Every second layer global, and a window that a short text overflows."""
    return {
        "gemma3.rope.freq_base": 1_000_000.0,
        "gemma3.attention.key_length": shape.head_size,
        "gemma3.attention.value_length": shape.head_size,
        "gemma3.attention.sliding_window": 5,
        "gemma3.attention.sliding_window_pattern": 2,
    }


def _granite(shape: Shape) -> dict[str, Any]:
    return {
        "granite.rope.dimension_count": shape.head_size,
        "granite.rope.freq_base": 10_000_000.0,
        "granite.attention.scale": 0.0625,
        "granite.embedding_scale": 12.0,
        "granite.residual_scale": 0.22,
        "granite.logit_scale": 8.0,
    }


def _phi3(shape: Shape) -> dict[str, Any]:
    return {
        "phi3.rope.scaling.original_context_length": shape.context,
        "phi3.rope.dimension_count": shape.head_size,
        "phi3.rope.freq_base": 10_000.0,
        "phi3.attention.sliding_window": 9,
    }


def _qwen2(shape: Shape) -> dict[str, Any]:
    del shape
    return {"qwen2.rope.freq_base": 1_000_000.0}


def _qwen3(shape: Shape) -> dict[str, Any]:
    return {"qwen3.rope.freq_base": 1_000_000.0} | _head_size("qwen3", shape)


def _byte_level() -> dict[str, Any]:
    """The 256 bytes in GPT-2's spelling, a few merges, a control and a user-defined token."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]
    merges = ["h e", "l l", "he ll", "Ġ w", "1 2"]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters]
    tokens += [merge.replace(" ", "") for merge in merges] + ["<tool>"]
    types = [TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(tokens) - 4)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(kind) for kind in [*types, TokenType.USER_DEFINED]],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{{ messages }}",
    }


def _sentencepiece() -> dict[str, Any]:
    """Specials, a run of two spaces, bytes, letters and a few words by falling score."""
    entries = [("<pad>", 3, -1000.0), ("<eos>", 3, -1000.0), ("<bos>", 3, -1000.0)]
    entries += [("<unk>", 2, -1000.0), ("<end_of_turn>", 3, -1000.0)]
    entries += [("  ", 4, -1000.0), ("\n\n", 4, -1000.0), ("<b>", 4, -1000.0)]
    entries += [(f"<0x{byte:02X}>", 6, 0.0) for byte in range(256)]
    words = ["he", "ll", "hell", "hello", "\u2581w", "or", "\u2581wor", "ld", "\u2581world"]
    letters = list("\u2581abcdehlorw")
    entries += [(word, 1, -float(index)) for index, word in enumerate([*words, *letters])]
    tokens, types, scores = zip(*entries, strict=True)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": list(tokens),
        "tokenizer.ggml.token_type": list(types),
        "tokenizer.ggml.scores": list(scores),
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": False,
    }


_METADATA: Final[Mapping[str, Callable[[Shape], dict[str, Any]]]] = {
    "gemma3": _gemma3,
    "granite": _granite,
    "llama": _llama,
    "phi3": _phi3,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
}
_TOKENIZERS: Final = {
    name: _sentencepiece if name in ("gemma3", "phi3") else _byte_level for name in _METADATA
}

"""Small GGUF files with random weights, and what they hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

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

# Where a block keeps its fp16 scale and, if it has one, its fp16 minimum; and how large levels are.
_SCALES: Final = {
    Type.Q4_0: (0, None, 8), Type.Q5_0: (0, None, 16), Type.Q8_0: (0, None, 128),
    Type.Q4_1: (0, 2, 8), Type.Q5_1: (0, 2, 16), Type.Q4_K: (0, 2, 256), Type.Q5_K: (0, 2, 512),
    Type.Q6_K: (208, None, 2048),
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
        levels = 15 if kind in (Type.Q4_1, Type.Q4_K) else 31
        spread = rng.uniform(0.3, 0.7, len(blocks)) * scales * levels
        _store_halves(blocks, minimum_at, spread if "K" in kind.name else -spread)
    return blocks.reshape(rows, -1)


def _store_halves(blocks: npt.NDArray[np.uint8], at: int, values: npt.NDArray[np.float64]) -> None:
    blocks[:, at : at + 2] = values.astype(np.float16)[:, None].view(np.uint8)


class Model:
    """A GGUF model in the making: change `metadata` or `tensors`, then `write`."""

    def __init__(self, architecture: str, kind: Type, *, tied: bool, seed: int = 3) -> None:
        self.architecture = architecture
        self.kind = kind
        self.metadata: dict[str, Any] = _METADATA[architecture]()
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
        vocabulary = len(self.tokenizer["tokenizer.ggml.tokens"])
        self.add("token_embd.weight", vocabulary, HIDDEN)
        self.add("output_norm.weight", HIDDEN, mean=1.0)
        if not tied:
            self.add("output.weight", vocabulary, HIDDEN)
        for index in range(LAYERS):
            self._fill_layer(f"blk.{index}")

    def _fill_layer(self, prefix: str) -> None:
        keys = KV_HEADS * HEAD_SIZE
        self.add(f"{prefix}.attn_norm.weight", HIDDEN, mean=1.0)
        self.add(f"{prefix}.attn_q.weight", HEADS * HEAD_SIZE, HIDDEN)
        self.add(f"{prefix}.attn_k.weight", keys, HIDDEN)
        self.add(f"{prefix}.attn_v.weight", keys, HIDDEN)
        self.add(f"{prefix}.attn_output.weight", HIDDEN, HEADS * HEAD_SIZE)
        self.add(f"{prefix}.ffn_norm.weight", HIDDEN, mean=1.0)
        self.add(f"{prefix}.ffn_gate.weight", FEED_FORWARD, HIDDEN)
        self.add(f"{prefix}.ffn_up.weight", FEED_FORWARD, HIDDEN)
        self.add(f"{prefix}.ffn_down.weight", HIDDEN, FEED_FORWARD)
        if self.architecture == "gemma3":
            self.add(f"{prefix}.attn_q_norm.weight", HEAD_SIZE, mean=1.0)
            self.add(f"{prefix}.attn_k_norm.weight", HEAD_SIZE, mean=1.0)
            self.add(f"{prefix}.post_attention_norm.weight", HIDDEN, mean=1.0)
            self.add(f"{prefix}.post_ffw_norm.weight", HIDDEN, mean=1.0)


_ADDERS: Final[Mapping[type, Callable[[GGUFWriter, str, Any], None]]] = {
    int: GGUFWriter.add_uint32,
    float: GGUFWriter.add_float32,
    bool: GGUFWriter.add_bool,
    str: GGUFWriter.add_string,
    list: GGUFWriter.add_array,
}


def _common(name: str) -> dict[str, Any]:
    return {
        "general.name": "A tiny one",
        "general.license": "apache-2.0",
        f"{name}.block_count": LAYERS,
        f"{name}.context_length": CONTEXT,
        f"{name}.embedding_length": HIDDEN,
        f"{name}.feed_forward_length": FEED_FORWARD,
        f"{name}.attention.head_count": HEADS,
        f"{name}.attention.head_count_kv": KV_HEADS,
        f"{name}.attention.layer_norm_rms_epsilon": EPSILON,
    }


def _llama() -> dict[str, Any]:
    return _common("llama") | {"llama.rope.freq_base": 10_000.0}


def _gemma3() -> dict[str, Any]:
    """Two layers: one local, one global, and a window that a short text overflows."""
    return _common("gemma3") | {
        "gemma3.rope.freq_base": 1_000_000.0,
        "gemma3.attention.key_length": HEAD_SIZE,
        "gemma3.attention.value_length": HEAD_SIZE,
        "gemma3.attention.sliding_window": 5,
        "gemma3.attention.sliding_window_pattern": 2,
    }


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


_METADATA: Final = {"llama": _llama, "gemma3": _gemma3}
_TOKENIZERS: Final = {"llama": _byte_level, "gemma3": _sentencepiece}

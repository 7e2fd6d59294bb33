"""A forward pass in numpy, float64, written from llama.cpp's definitions and not from the graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tests.unit.importers.files import EPSILON, HEAD_SIZE, HEADS, HIDDEN, KV_HEADS, LAYERS, Floats

Array = npt.NDArray[np.float64]


def logits(architecture: str, weights: Mapping[str, Floats], ids: list[int]) -> Array:
    """Logits after each position, `[len(ids), vocabulary]`."""
    w = {
        name.removesuffix(".weight"): values.astype(np.float64) for name, values in weights.items()
    }
    gemma = architecture == "gemma3"
    x = w["token_embd"][ids] * (np.sqrt(HIDDEN) if gemma else 1.0)
    for index in range(LAYERS):
        layer = {
            name.removeprefix(f"blk.{index}."): values
            for name, values in w.items()
            if name.startswith(f"blk.{index}.")
        }
        update = _attention(layer, _norm(x, layer["attn_norm"]), index, w.get("rope_freqs"), gemma)
        x = x + (_norm(update, layer["post_attention_norm"]) if gemma else update)
        normed = _norm(x, layer["ffn_norm"])
        gate, up = normed @ layer["ffn_gate"].T, normed @ layer["ffn_up"].T
        update = ((_gelu(gate) if gemma else _silu(gate)) * up) @ layer["ffn_down"].T
        x = x + (_norm(update, layer["post_ffw_norm"]) if gemma else update)
    return _norm(x, w["output_norm"]) @ w.get("output", w["token_embd"]).T


def _attention(
    w: Mapping[str, Array], x: Array, index: int, divisors: Array | None, gemma: bool
) -> Array:
    count = len(x)
    q = (x @ w["attn_q"].T).reshape(count, HEADS, HEAD_SIZE)
    k = (x @ w["attn_k"].T).reshape(count, KV_HEADS, HEAD_SIZE)
    v = (x @ w["attn_v"].T).reshape(count, KV_HEADS, HEAD_SIZE)
    local = gemma and index == 0
    if gemma:
        q, k = _norm(q, w["attn_q_norm"]), _norm(k, w["attn_k_norm"])
    base = 10_000.0 if local or not gemma else 1_000_000.0
    q, k = (_rotate(part, base, divisors, neighbours=not gemma) for part in (q, k))
    k, v = (np.repeat(part, HEADS // KV_HEADS, axis=1) for part in (k, v))
    scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(HEAD_SIZE)
    distance = np.arange(count)[:, None] - np.arange(count)[None, :]
    seen = (distance >= 0) & (distance < (5 if local else count))
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed: Array = np.einsum("hij,jhd->ihd", weights, v).reshape(count, -1)
    return mixed @ w["attn_output"].T


def _rotate(x: Array, base: float, divisors: Array | None, *, neighbours: bool) -> Array:
    """llama's GGUF pairs neighbours (2i, 2i+1); gemma3's pairs the halves (i, i + size/2)."""
    frequencies = base ** (-np.arange(0, HEAD_SIZE, 2) / HEAD_SIZE)
    if divisors is not None:
        frequencies = frequencies / divisors
    angles = np.arange(len(x))[:, None, None] * frequencies
    half = HEAD_SIZE // 2
    first, second = (x[..., ::2], x[..., 1::2]) if neighbours else (x[..., :half], x[..., half:])
    turned = (
        first * np.cos(angles) - second * np.sin(angles),
        second * np.cos(angles) + first * np.sin(angles),
    )
    if neighbours:
        return np.stack(turned, axis=-1).reshape(x.shape)
    return np.concatenate(turned, axis=-1)


def _norm(x: Array, weight: Array) -> Array:
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + EPSILON) * weight


def _silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def _gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

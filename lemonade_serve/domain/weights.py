"""A model in safetensors: which files of its repository it is. Pure, from what is listed."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from lemonade_serve.errors import UnsupportedModel
from lemonade_serve.protocol.jobs import RepositoryFile

_CONFIG = "config.json"
_TOKENIZER = "tokenizer.json"
_ALONE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PARTS = "model-*-of-*.safetensors"
DESCRIBING = (
    *(_CONFIG, "generation_config.json", _TOKENIZER, "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
    *("chat_template.jinja", "additional_chat_templates/*.jinja"),
)
"""What a conversion reads besides weights. No code, and nothing that is a pickle."""


def has_safetensors(files: Sequence[RepositoryFile]) -> bool:
    return any(file.path.endswith(".safetensors") for file in files)


def choose(
    name: str, files: Sequence[RepositoryFile], describing: Sequence[str]
) -> tuple[RepositoryFile, ...]:
    """The configuration first, then the tokenizer, what else is `describing` it by its pattern, and
    the weights. Raises UnsupportedModel where one of them is missing."""
    by_path = {file.path: file for file in files}
    if _ALONE in by_path:
        weights = [_ALONE]
    elif _INDEX in by_path:
        weights = [_INDEX, *(path for path in sorted(by_path) if fnmatchcase(path, _PARTS))]
    else:
        raise UnsupportedModel(
            f"{name} cannot be converted: its safetensors are no {_ALONE}, and without a {_INDEX}"
        )
    if missing := [path for path in (_CONFIG, _TOKENIZER) if path not in by_path]:
        raise UnsupportedModel(f"{name} cannot be converted: it has no {' and no '.join(missing)}")
    about = [
        path
        for path in sorted(by_path)
        if path != _CONFIG and any(fnmatchcase(path, known) for known in describing)
    ]
    return tuple(by_path[path] for path in (_CONFIG, *about, *weights))

"""What a checkpoint can be asked for, by what lies in its directory."""

from __future__ import annotations

from pathlib import Path

import msgspec

_TOOLS = "tools"
"""What templates call the functions that they are given."""


class _TokenizerConfig(msgspec.Struct):
    chat_template: msgspec.Raw = msgspec.Raw(b"null")


def capabilities(path: Path) -> tuple[str, ...]:
    """Text can always be continued; a chat needs a template, and tools one that shows them."""
    template = _template(path)
    if not template:
        return ("completion",)
    return ("completion", "chat", "tools") if _TOOLS in template else ("completion", "chat")


def _template(path: Path) -> str:
    """Its text, in whatever form; "" when there is none."""
    try:
        return (path / "chat_template.jinja").read_text("utf-8", "replace")
    except OSError:
        pass
    try:
        said = (path / "tokenizer_config.json").read_bytes()
        raw = bytes(msgspec.json.decode(said, type=_TokenizerConfig).chat_template)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return "" if raw in (b"null", b'""') else raw.decode("utf-8", "replace")

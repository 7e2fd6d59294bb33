"""From tokens back to text, as a stream: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_MAX_HELD_TOKENS = 8
"""A character has at most four bytes, hence four tokens; more held ones are not text at all."""

_CONTEXT_TOKENS = 6

Decode = Callable[[Sequence[int]], str]


class Detokenizer:
    """Turns one sequence's tokens into text, holding back bytes that are not yet a character.

    A few tokens before the new ones, the prompt's last at first, are decoded with them: a token's
    text may depend on its neighbours. Source: text-generation-inference's prefix and read offsets.
    """

    def __init__(self, decode: Decode, prompt_tokens: Sequence[int] = ()) -> None:
        self._decode = decode
        self._context = list(prompt_tokens[-_CONTEXT_TOKENS:])
        self._held: list[int] = []
        # Neither end of the context may cut a character: decoders spoil its neighbours then.
        while decode(self._context).startswith(_REPLACEMENT):
            del self._context[0]
        while decode(self._context).endswith(_REPLACEMENT):
            self._held.insert(0, self._context.pop())
        self._context_text = decode(self._context)

    def push(self, token: int) -> str:
        """The text that `token` completes: often a word, sometimes nothing."""
        self._held.append(token)
        text = self._decode(self._context + self._held)
        if text.endswith(_REPLACEMENT) and len(self._held) < _MAX_HELD_TOKENS:
            return ""
        return self._release(text)

    def flush(self) -> str:
        """What is still held: the bytes of half a character come out as U+FFFD."""
        return self._release(self._decode(self._context + self._held)) if self._held else ""

    def _release(self, text: str) -> str:
        new = text[len(self._context_text) :]
        if new:  # what was held begins and ends with a character, and so can be the context
            self._context = self._held
            self._context_text = self._decode(self._context)
        self._held = []
        return new


class StopStrings:
    """Passes text on, but holds back what may turn out to be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """The text that is safe to send, and whether a stop string ended the sequence."""
        if not self._stops:
            return text, False
        text = self._held + text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def flush(self) -> str:
        """What was held back: the sequence ended, so it is no stop string after all."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that `stop` begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)

"""What a whole answer has to be, as masks for the sampler: JSON Schemas, regular expressions and
Lark grammars, by llguidance."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from lemonade_serve import errors
from lemonade_serve.protocol.messages import Guidance, Work
from lemonade_serve.worker.drawing import Mask
from lemonade_serve.worker.schemas import check_lark, check_schema

MAX_GRAMMAR_BYTES = 64 * 1024
"""Of a schema, an expression or a grammar, as UTF-8. llguidance recurses natively: this bounds how
deeply, however rules refer to each other."""

COMPILER_STACK_BYTES = 512 * 1024 * 1024
"""For the thread that compiles: enough for the deepest grammars of `MAX_GRAMMAR_BYTES` that we know
(tests/unit/worker/test_preparing.py). Of address space; pages come when they are touched."""

_MAX_LEXER_STATES = 25_000
"""Of one request; each takes one to two kilobytes, and a schema has some hundreds."""

_MAX_ROW_ITEMS, _MAX_STEP_ITEMS = 10_000, 20_000
"""What an ambiguous grammar may keep in mind at a place, and look at for a token, which 36 ms go by
with: others wait for it. An object with so many optional properties needs three a property."""

_MAX_LINE_CHARACTERS, _MAX_LINES = 160, 12
"""Of what llguidance says is wrong, which may quote all of the grammar."""

JSON_OPTIONS = {
    "whitespace_flexible": False,  # small models fill whole lines with it
    "item_separator": ",",
    "key_separator": ":",
    "coerce_one_of": False,
    "lenient": False,
    "json_allowed_escapes": 'nrbtf\\"',  # by a number a key could be written twice
}
"""How llguidance compiles JSON Schemas."""

_UNNAMED = {
    "pattern": ("regex parse error", "Unable to determine if regex"),
    "$ref": ("Resource ", "Pointer "),
}
"""Of what llguidance says without the keyword that it is about: how that begins."""

_FIELDS = {"json_schema": "response_format", "regex": "regex", "lark": "grammar"}
"""What a request calls its guidance, for errors."""


class GrammarMask(Mask):
    """One sequence's way through its grammar. Past a limit of llguidance, both methods raise
    GenerationFailed."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def over(self) -> bool:
        """Whether the grammar is complete, and nothing may follow."""
        return self._matcher.is_stopped()

    def allowed(self) -> NDArray[np.uint32]:
        words = np.frombuffer(self._matcher.compute_bitmask(), "<u4")
        self._check()  # a matcher that failed allows the end
        return words

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise errors.GenerationFailed(  # its own words may quote the answer
                "the grammar of this answer became too complex on the way: "
                f"{self._matcher.stop_reason()}"
            )


class Grammars:
    """Compiles for one tokenizer, which is read when it is first needed; that holds the GIL for
    0.2 s with 49,000 tokens. For one thread at a time, with a stack of `COMPILER_STACK_BYTES`."""

    def __init__(self, tokenizer_json: Path, eos_ids: Iterable[int]) -> None:
        self._path = tokenizer_json
        self._eos_ids = sorted(eos_ids)

    def masks(self, work: Work) -> tuple[GrammarMask, ...]:
        """One for each sequence of a request with guidance. Raises InvalidRequest, with what of it
        cannot be enforced."""
        assert work.guidance is not None  # noqa: S101, nobody else comes here
        matcher = self._matcher(work.guidance)
        matcher.compute_bitmask()  # the first one takes longest, and the copies share its work
        if matcher.is_error():
            raise _refusal(work.guidance, matcher.get_error())
        return tuple(GrammarMask(matcher.deep_copy()) for _ in range(work.n))

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        try:
            return LLTokenizer(self._path.read_text(encoding="utf-8"), eos_token=self._eos_ids)
        except ValueError as error:
            raise errors.InvalidRequest(
                f"answers of this model cannot be guided: {_shortened(str(error))}"
            ) from error

    def _matcher(self, guidance: Guidance) -> LLMatcher:
        field, size = _field(guidance), len(guidance.grammar.encode())
        if size > MAX_GRAMMAR_BYTES:
            raise errors.InvalidRequest(
                f"{field} has {size} bytes; {MAX_GRAMMAR_BYTES} are the most", param=field
            )
        try:
            grammar = _translated(guidance)
        except (ValueError, RecursionError) as error:  # the latter of msgspec, if it is deep
            raise _refusal(guidance, str(error)) from error
        limits = LLParserLimits(
            max_lexer_states=_MAX_LEXER_STATES,
            max_items_in_row=_MAX_ROW_ITEMS,
            step_max_items=_MAX_STEP_ITEMS,
            verbose_errors=False,
        )
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        if matcher.is_error():
            raise _refusal(guidance, matcher.get_error())
        return matcher


def _translated(guidance: Guidance) -> str:
    """In llguidance's own words. Raises ValueError for what is no grammar at all."""
    match guidance.kind:
        case "regex":
            return LLMatcher.grammar_from_regex(guidance.grammar)
        case "lark":
            check_lark(guidance.grammar)
            return LLMatcher.grammar_from_lark(guidance.grammar)
        case "json_schema":
            schema = msgspec.json.decode(guidance.grammar, type=dict[str, Any])
            check_schema(schema)
            return LLMatcher.grammar_from_json_schema(guidance.grammar, overrides=JSON_OPTIONS)  # type: ignore[arg-type]


def _refusal(guidance: Guidance, why: str) -> errors.InvalidRequest:
    field = _field(guidance)
    why = why.removesuffix("<non-verbose/>").strip()
    keyword = next((k for k, words in _UNNAMED.items() if why.startswith(words)), None)
    if guidance.kind == "json_schema" and keyword:
        why = f"{keyword}: {why}"
    return errors.InvalidRequest(f"{field} cannot be enforced: {_shortened(why)}", param=field)


def _field(guidance: Guidance) -> str:
    return guidance.field or _FIELDS[guidance.kind]


def _shortened(message: str) -> str:
    lines = message.splitlines()[:_MAX_LINES]
    return "\n".join(
        line if len(line) <= _MAX_LINE_CHARACTERS else f"{line[:_MAX_LINE_CHARACTERS]}…"
        for line in lines
    )

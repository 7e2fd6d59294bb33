"""Whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from lemonade_serve.worker.text import Detokenizer, StopStrings
from tests.unit.worker.vocabularies import BOS, EOS, byte_level, eos_of, id_of, sentencepiece

BYTES = byte_level()
PIECES = sentencepiece()
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# No private use, no surrogates, no U+FFFD itself: that one is what must not appear.
texts = st.text(
    st.characters(exclude_categories=["Cs", "Co"], exclude_characters=REPLACEMENT), max_size=24
)


def decoding(tokenizer: Tokenizer) -> Callable[[Sequence[int]], str]:
    return lambda tokens: str(tokenizer.decode(list(tokens), skip_special_tokens=True))


def bytes_of(text: str | bytes) -> list[int]:
    """The byte-level tokens of a text, or of bytes that are none."""
    raw = text.encode() if isinstance(text, str) else text
    return [_OF_BYTE[byte] for byte in raw]


def _byte_table() -> dict[int, int]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    character = {b: chr(b) for b in printable} | {b: chr(256 + n) for n, b in enumerate(others)}
    return {byte: id_of(BYTES, character[byte]) for byte in range(256)}


_OF_BYTE = _byte_table()


def spoken(detokenizer: Detokenizer, tokens: Sequence[int]) -> list[str]:
    return [*(detokenizer.push(token) for token in tokens), detokenizer.flush()]


class TestByteLevel:
    @pytest.mark.parametrize(
        "text",
        [
            "plain",
            "😀",
            "👩‍👩‍👧‍👦 family",
            "日本語です",
            "e\u0301 combining",
            "héllo wörld",
            "🇩🇪🇯🇵",
        ],
    )
    def test_pieces_of_a_character_come_out_as_one(self, text: str) -> None:
        pieces = spoken(Detokenizer(decoding(BYTES)), bytes_of(text))
        assert "".join(pieces) == text
        assert not any(REPLACEMENT in piece for piece in pieces)

    def test_each_character_leaves_with_its_last_byte(self) -> None:
        pieces = spoken(Detokenizer(decoding(BYTES)), bytes_of("a😀b"))
        assert pieces == ["a", "", "", "", "😀", "b", ""]

    def test_half_a_character_comes_out_marked_at_the_end(self) -> None:
        pieces = spoken(Detokenizer(decoding(BYTES)), bytes_of("ok😀")[:-1])
        assert "".join(pieces) == "ok" + REPLACEMENT
        assert pieces[-1] == REPLACEMENT

    def test_bytes_that_are_no_text_are_held_a_bounded_time(self) -> None:
        detokenizer = Detokenizer(decoding(BYTES))
        pieces = [detokenizer.push(token) for token in bytes_of(b"\x80" * 64)]
        longest_silence = max(
            len(run) for run in "".join("x" if p else "." for p in pieces).split("x")
        )
        assert longest_silence < 8
        assert "".join(pieces) + detokenizer.flush() == REPLACEMENT * 64

    def test_text_after_bytes_that_are_no_text_is_whole(self) -> None:
        pieces = spoken(Detokenizer(decoding(BYTES)), bytes_of(b"\xff" * 20 + "日本 ok".encode()))
        assert "".join(pieces).endswith("日本 ok")

    def test_a_special_token_has_no_text(self) -> None:
        detokenizer = Detokenizer(decoding(BYTES))
        assert detokenizer.push(bytes_of("a")[0]) == "a"
        assert detokenizer.push(eos_of(BYTES)) == ""
        assert detokenizer.push(bytes_of("b")[0]) == "b"

    def test_the_prompt_is_not_repeated(self) -> None:
        detokenizer = Detokenizer(decoding(BYTES), bytes_of("the prompt"))
        assert "".join(spoken(detokenizer, bytes_of(" goes on"))) == " goes on"

    def test_a_character_that_the_prompt_began_comes_out_whole(self) -> None:
        first, last = bytes_of("😀")[:2], bytes_of("😀")[2:]
        detokenizer = Detokenizer(decoding(BYTES), bytes_of("a") + first)
        assert "".join(spoken(detokenizer, last + bytes_of("b"))) == "😀b"

    def test_flushing_an_untouched_one_says_nothing(self) -> None:
        assert Detokenizer(decoding(BYTES), bytes_of("x")).flush() == ""

    @given(texts, texts)
    def test_what_is_pushed_is_what_the_tokens_say(self, prompt: str, text: str) -> None:
        pieces = spoken(Detokenizer(decoding(BYTES), bytes_of(prompt)), bytes_of(text))
        assert "".join(pieces) == text
        assert not any(REPLACEMENT in piece for piece in pieces)


class TestSentencePiece:
    def ids(self, *tokens: str) -> list[int]:
        return [id_of(PIECES, token) for token in tokens]

    def test_the_space_between_two_words_survives(self) -> None:
        pieces = spoken(Detokenizer(decoding(PIECES)), self.ids("▁hello", "▁world", "a"))
        assert pieces == ["hello", " world", "a", ""]

    def test_the_space_after_the_prompt_survives(self) -> None:
        detokenizer = Detokenizer(decoding(PIECES), self.ids(BOS, "▁hello"))
        assert "".join(spoken(detokenizer, self.ids("▁world", "▁hello"))) == " world hello"

    def test_spaces_survive_however_long_it_goes_on(self) -> None:
        pieces = spoken(Detokenizer(decoding(PIECES)), self.ids(*["▁hello", "▁world"] * 20, EOS))
        assert "".join(pieces) == " ".join(["hello world"] * 20)

    @pytest.mark.parametrize("text", ["😀", "日é", "a😀b", "語b語b語b語b"])
    def test_a_character_of_byte_tokens_comes_out_as_one(self, text: str) -> None:
        tokens = PIECES.encode(text, add_special_tokens=False).ids[1:]  # less its first `▁`
        pieces = spoken(Detokenizer(decoding(PIECES), self.ids("▁hello")), tokens)
        assert "".join(pieces) == text
        assert not any(REPLACEMENT in piece for piece in pieces)

    def test_half_a_character_comes_out_marked_at_the_end(self) -> None:
        tokens = self.ids("▁hello", "<0xF0>", "<0x9F>")
        assert "".join(spoken(Detokenizer(decoding(PIECES)), tokens)) == "hello" + REPLACEMENT * 2

    def test_three_emoji_in_a_row_come_out_whole(self) -> None:
        tokens = PIECES.encode("a😀😀😀", add_special_tokens=False).ids
        assert "".join(spoken(Detokenizer(decoding(PIECES)), tokens)) == "a😀😀😀"

    def test_emoji_after_a_prompt_of_emoji_come_out_whole(self) -> None:
        emoji = self.ids(*(f"<0x{byte:02X}>" for byte in "😀😀".encode()))
        assert "".join(spoken(Detokenizer(decoding(PIECES), emoji), emoji)) == "😀😀"

    @given(texts)
    def test_what_is_pushed_is_what_the_tokens_say(self, text: str) -> None:
        tokens = PIECES.encode("a" + text, add_special_tokens=False).ids
        assert "".join(spoken(Detokenizer(decoding(PIECES)), tokens)) == PIECES.decode(tokens)


def passed(stops: Sequence[str], pieces: Sequence[str]) -> tuple[str, bool]:
    """What comes out for some pieces of text, and whether a stop string ended it."""
    passing, out = StopStrings(stops), ""
    for piece in pieces:
        text, stopped = passing.push(piece)
        out += text
        if stopped:
            return out, True
    return out + passing.flush(), False


def expected(stops: Sequence[str], pieces: Sequence[str]) -> tuple[str, bool]:
    """The same by searching the whole text after each piece."""
    whole = ""
    for piece in pieces:
        whole += piece
        if found := [whole.index(stop) for stop in stops if stop in whole]:
            return whole[: min(found)], True
    return whole, False


class TestStopStrings:
    def test_without_stops_everything_passes_at_once(self) -> None:
        stops = StopStrings(())
        assert stops.push("anything") == ("anything", False)
        assert stops.flush() == ""

    def test_text_before_a_stop_string_passes_and_the_rest_does_not(self) -> None:
        assert StopStrings(("END",)).push("so far END and on") == ("so far ", True)

    def test_a_stop_string_is_found_across_pushes(self) -> None:
        assert passed(("END",), ["so E", "N", "D on"]) == ("so ", True)

    def test_what_may_become_a_stop_string_is_held_back(self) -> None:
        stops = StopStrings(("END",))
        assert stops.push("so EN") == ("so ", False)
        assert stops.push("tirely") == ("ENtirely", False)

    def test_no_more_is_held_back_than_could_be_a_stop_string(self) -> None:
        stops = StopStrings(("aab",))
        assert stops.push("aaaa") == ("aa", False)
        assert stops.push("b") == ("", True)

    def test_what_was_held_back_comes_out_at_the_end(self) -> None:
        stops = StopStrings(("END",))
        stops.push("the EN")
        assert stops.flush() == "EN"
        assert stops.flush() == ""

    def test_of_two_the_earlier_one_wins(self) -> None:
        assert StopStrings(("two", "one")).push("zero one two") == ("zero ", True)

    def test_of_two_that_begin_together_it_does_not_matter_which(self) -> None:
        assert StopStrings(("ab", "abc")).push("xabcd") == ("x", True)

    def test_the_longest_beginning_of_any_stop_is_held(self) -> None:
        assert StopStrings(("c!", "abc?")).push("xabc") == ("x", False)

    @given(
        st.lists(st.text("ab", min_size=1, max_size=4), max_size=4),
        st.lists(st.text("abc", max_size=5), max_size=8),
    )
    def test_it_finds_what_a_search_of_the_whole_text_finds(
        self, stops: list[str], pieces: list[str]
    ) -> None:
        assert passed(stops, pieces) == expected(stops, pieces)

    @given(
        st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4),
        st.lists(st.text("abc", max_size=5), max_size=8),
    )
    def test_what_it_holds_is_always_the_beginning_of_a_stop_string(
        self, stops: list[str], pieces: list[str]
    ) -> None:
        passing, out = StopStrings(stops), ""
        for n, piece in enumerate(pieces):
            text, stopped = passing.push(piece)
            out += text
            if stopped:
                return
            held = "".join(pieces[: n + 1]).removeprefix(out)
            assert not held or any(stop.startswith(held) for stop in stops)

# ruff: noqa: RUF001, lookalikes are the point
"""Texts that tokenizers disagree about."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

CHOSEN: Final = (
    "Hello, world! It's 3.14 o'clock -- we'LL see.",
    "I'm sure they've said: 'don't', he'd go; YOU'RE right, it's 'S",
    "  leading,   inner  and trailing   ",
    "\t tabs\tand\n\nlines \n \n\n  \r\n end\r\r\n",
    " \n\n\n",
    "1 12 123 1234 12345 1234567890 3,000,000.00 0x1F 1e-9",
    "²½Ⅳ ٣٤٥ १२३ ㊿ 𝟘𝟙 ①②",
    "def f(x):\n    return {'a': x**2, \"b\": [1,\t2]}  # comment\n\n\nprint(f(3))//",
    "if (a != b) { c += d->e::f<int>(); } /* ... */ // url: https://a.b/c?d=e&f=%20#g",
    "camelCase PascalCase snake_case SCREAMING_CASE ALLCAPSword McDonald iPhone ßtraße ǅungla",
    "café cafe\u0301 A\u030angstro\u0308m \u1e9b\u0323 \u2126 \ufb01n",  # composed and not
    "Ελληνικά Русский עברית العربية हिन्दी ภาษาไทย 한국어 日本語カタカナ 中文字符。",
    "नमस्ते दुनिया, ক্ষত্রিয় ทดสอบ๑๒๓",
    "👍 👩‍👩‍👧‍👦 🏳️‍🌈 ❤️ 🇩🇪 ☺︎",
    "nbsp\u00a0here ideographic\u3000space zero\u200bwidth line\u2028sep bom\ufeff",
    "!!!??? ... --- *** ((())) [[]] {{}} <<>> $$ ~~ `` ^^ ||",
    "'s 't 're 've 'm 'll 'd 'S 'T 'Re 'VE 'lL 'ſ",
    "a\u0300\u0301b\u20dd x\u0338=y \u0301start",
    "\x00\x01\x7f\x85 control",
    "\U000e0041tag \ue000private \uffff",
)
"""Every rule of every pattern has its case here."""

_POOLS: Final = (
    "abcdefghijklmnopqrstuvwxyz",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "0123456789",
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    " ",
    " \n\r\t",
    "\u00a0\u3000\u2028\u200b\u0085",
    "äöüßéèçñøåÆŒſǅ",
    "\u0300\u0301\u0308\u0323\u0338\u20dd",
    "абвгдЖЗИЙ αβγΔΣΩ",
    "漢字日本語中文한국어ひらがなカタカナ。、！",
    "नमस्तेदुनिया१२३ العربية٣٤ ไทย๑ עברית",
    "²½Ⅳ①㊿𝟘",
    "👍🎉❤\ufe0f\u200d🏳🇩🇪",
)
_WORDS: Final = (
    "'s", "'t", "'re", "'VE", "'m", "'Ll", "'d", " the", " of", "hello", "World", "ing", "  ",
    "    ", "\n\n", "\r\n", " \n", "return", "function", "2024", "://", "...", "==", "_id", "é",
)  # fmt: skip


def made_up(count: int, seed: int = 7) -> Iterator[str]:
    """Seeded nonsense: runs out of one pool after the other, words, and any character at all."""
    rng = random.Random(seed)  # noqa: S311, no secret
    for _ in range(count):
        parts = []
        for _ in range(rng.randint(1, 12)):
            kind = rng.random()
            if kind < 0.3:
                parts.append(rng.choice(_WORDS))
            elif kind < 0.9:
                pool = rng.choice(_POOLS)
                parts.append("".join(rng.choice(pool) for _ in range(rng.randint(1, 6))))
            else:
                parts.append("".join(_anything(rng) for _ in range(rng.randint(1, 3))))
        yield "".join(parts)


def _anything(rng: random.Random) -> str:
    while True:
        code = rng.randrange(1, 0x20000)
        if not 0xD800 <= code < 0xE000 and code != 0x2581:  # surrogates; SentencePiece's space
            return chr(code)

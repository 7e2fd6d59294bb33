"""How near one model is to another, over a text."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from lemonade_serve.importers.scores import Ids, Logits, compare, passage_ids, score
from lemonade_serve.importers.trial import Trial
from tests import tiny
from tests.graphs import Plan

IDS = np.array([3, 1, 2], np.int32)
SURE = np.array([[0, 9, 0, 0], [0, 0, 9, 0], [9, 0, 0, 0]], np.float32)


def test_who_foretells_everything_has_a_perplexity_of_one() -> None:
    found = score(iter([SURE]), IDS)
    assert found.perplexity == pytest.approx(1, abs=1e-3)
    assert found.likeliest.tolist() == [1, 2]


def test_who_knows_nothing_has_that_of_the_vocabulary() -> None:
    assert score(iter([np.zeros((3, 4), np.float32)]), IDS).perplexity == pytest.approx(4)


def test_logits_may_come_in_any_pieces() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(3, 4)).astype(np.float32)
    whole = score(iter([rows]), IDS).losses
    for cut in ([rows[:1], rows[1:]], [rows[:2]], [rows[:0], rows]):
        assert score(iter(cut), IDS).losses.tolist() == whole.tolist()


def test_a_model_is_compared_position_by_position() -> None:
    other = SURE.copy()
    other[1] = [0, 0, 0, 9]
    quality = compare(score(iter([other]), IDS), score(iter([SURE]), IDS))
    assert (quality.positions, quality.agreement) == (2, 0.5)
    assert quality.ratio == pytest.approx(math.exp(4.5), rel=1e-2)
    broken = compare(score(iter([SURE * np.nan]), IDS), score(iter([SURE]), IDS))
    assert not broken.ratio <= 1e9


def stepwise(trial: Trial, ids: Ids) -> Logits:
    """A token at a time, and of each what any graph gives: the last position's logits."""
    generator = trial.generator(len(ids))
    rows = []
    for at in range(len(ids)):
        generator.append_tokens(ids[at : at + 1])
        rows.append(np.asarray(generator.get_logits()).reshape(-1))
    return np.array(rows)


@pytest.mark.parametrize("plan", [Plan(), Plan(pruned=True), Plan(dtype="float16")])
def test_a_checkpoint_is_read_in_chunks_or_a_token_at_a_time(tmp_path: Path, plan: Plan) -> None:
    trial = Trial(tiny.put(tmp_path / "tiny", plan), threads=1)
    ids = (np.arange(70, dtype=np.int32) * 7) % plan.vocabulary
    pieces = list(trial.logits(ids))
    assert max(map(len, pieces)) == (1 if plan.pruned else 32)
    np.testing.assert_allclose(np.concatenate(pieces), stepwise(trial, ids), atol=2e-2)


def test_a_checkpoint_answers_with_the_likeliest_tokens(tmp_path: Path) -> None:
    trial = Trial(tiny.put(tmp_path / "tiny", Plan()), threads=1)
    ids = np.arange(5, dtype=np.int32)
    answer = trial.answer(ids, 3)
    whole = np.concatenate([ids, np.array(answer, np.int32)])
    likeliest = np.concatenate(list(trial.logits(whole))).argmax(axis=-1)
    assert likeliest[4:7].tolist() == answer


def test_the_text_is_a_few_hundred_tokens(tmp_path: Path) -> None:
    vocabulary = {word: n for n, word in enumerate(["[UNK]", "Alice"])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106
    words.pre_tokenizer = Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    ids = passage_ids(tmp_path / "tokenizer.json")
    assert 300 < len(ids) < 600
    assert (ids[0], int((ids == 1).sum())) == (1, 2)

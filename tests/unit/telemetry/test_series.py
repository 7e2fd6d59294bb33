"""How counters and histograms are written: the library's parsers read them."""

from __future__ import annotations

from bisect import bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as text

from lemonade_serve.telemetry.series import Counter, Family, Histogram

BOUNDS = (0.5, 1, 100_000)


def read(family: Family, *, strictly: bool = False) -> Metric:
    written = "".join(family.write(openmetrics=strictly))
    (metric,) = openmetrics(f"{written}# EOF\n") if strictly else text(written)
    return metric


@pytest.mark.parametrize("strictly", [False, True])
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]) | st.sampled_from('\\"\n')))
def test_any_label_is_read_back_as_it_was(strictly: bool, label: str) -> None:
    counter = Counter("seen_total", "Seen.", ("model",))
    counter.add(2, label)
    (sample,) = read(counter, strictly=strictly).samples
    assert (sample.name, sample.labels) == ("lemonade_seen_total", {"model": label})
    assert sample.value == 2


def test_a_family_has_its_type_and_its_help() -> None:
    for family in (
        Counter("seen_total", "Seen.", ()),
        Histogram("size", "Seen.", ("model",), BOUNDS),
    ):
        for strictly in (False, True):
            metric = read(family, strictly=strictly)
            assert (metric.type, metric.documentation) == (family.kind, "Seen.")


@pytest.mark.parametrize("strictly", [False, True])
@given(st.lists(st.floats(0, 1e6) | st.sampled_from(BOUNDS)))
def test_a_bucket_holds_what_is_at_most_its_bound(strictly: bool, sizes: list[float]) -> None:
    histogram = Histogram("size", "Sizes.", ("model",), BOUNDS)
    histogram.observe(sizes, "a")
    samples = read(histogram, strictly=strictly).samples
    found = {sample.labels.get("le", sample.name): sample.value for sample in samples}
    assert found.pop("lemonade_size_sum") == pytest.approx(sum(sizes))
    assert found.pop("lemonade_size_count") == found.pop("+Inf") == len(sizes)
    assert found == {str(float(b)): bisect_right(sorted(sizes), b) for b in BOUNDS}


def test_what_is_not_known_is_not_observed() -> None:
    histogram = Histogram("size", "Sizes.", ("model",), BOUNDS)
    histogram.observe([None, 0.75, None], "a")
    values = {s.name: s.value for s in read(histogram).samples if "le" not in s.labels}
    assert values == {"lemonade_size_count": 1, "lemonade_size_sum": 0.75}


def test_great_counts_are_exact() -> None:
    counter = Counter("seen_total", "Seen.", ("model",))
    counter.add(2**53 - 1, "a")
    assert read(counter).samples[0].value == 2**53 - 1


def test_labels_must_be_as_many_as_their_names() -> None:
    counter = Counter("seen_total", "Seen.", ("model", "device"))
    with pytest.raises(ValueError, match="zip"):
        counter.add(1, "a")


def test_starting_a_child_twice_keeps_its_count() -> None:
    counter = Counter("seen_total", "Seen.", ("model",))
    counter.start("a")
    counter.add(1, "a")
    counter.start("a")
    assert [sample.value for sample in read(counter).samples] == [1]


def test_forgetting_a_model_leaves_the_others() -> None:
    counter = Counter("seen_total", "Seen.", ("device", "model"))
    for device in ("npu", "cpu"):
        for model in ("cpu", "b"):
            counter.start(device, model)
    counter.forget("cpu")
    assert [sample.labels for sample in read(counter).samples] == [
        {"device": "npu", "model": "b"},
        {"device": "cpu", "model": "b"},
    ]


def test_a_family_without_models_forgets_nothing() -> None:
    counter = Counter("seen_total", "Seen.", ("reason",))
    counter.start("a")
    counter.forget("a")
    assert len(read(counter).samples) == 1

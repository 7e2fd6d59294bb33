"""The generation parameters that each client keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from lemonade_serve import errors
from lemonade_serve.domain.clients import KEPT, ClientParams, Setting, Source, Value
from lemonade_serve.domain.sampling import Options, resolve
from lemonade_serve.protocol.messages import ResolvedParams
from tests.fakes import asynchronous


class Shelf:
    """A `ParamsStore` that forgets with the test."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], Options] = {}

    async def get(self, client: str, model: str = "") -> Options:
        return self.kept.get((client, model), Options())

    async def edit(self, client: str, model: str, change: Callable[[Options], Options]) -> Options:
        self.kept[client, model] = change(await self.get(client, model))
        return self.kept[client, model]

    async def forget(self, client: str, model: str | None = None) -> None:
        gone = [key for key in self.kept if key[0] == client and model in (None, key[1])]
        for key in gone:
            del self.kept[key]


def house(**settings: Any) -> tuple[ClientParams, Shelf]:
    shelf = Shelf()
    return ClientParams(shelf, Options(**settings)), shelf


async def resolved(params: ClientParams, client: str, model: str = "") -> ResolvedParams:
    return resolve(*await params.layers(client, model))


@asynchronous
async def test_a_client_that_said_nothing_gets_the_settings_over_the_specification() -> None:
    params, shelf = house(top_k=7)
    assert await resolved(params, "a", "small") == ResolvedParams(top_k=7)
    assert shelf.kept == {}


@asynchronous
async def test_setting_merges_and_answers_with_all_that_is_in_force() -> None:
    params, _ = house(top_k=7)
    assert await params.set("a", "", {"temperature": 0.8}) == ResolvedParams(
        top_k=7, temperature=0.8
    )
    assert await params.set("a", "", {"max_length": 9}) == ResolvedParams(
        top_k=7, temperature=0.8, max_length=9
    )


@asynchronous
async def test_what_is_kept_for_a_model_goes_on_top_of_what_is_kept_for_all() -> None:
    params, _ = house(temperature=0.1)
    await params.set("a", "", {"temperature": 0.2, "top_k": 2})
    await params.set("a", "small", {"temperature": 0.3})
    assert (await resolved(params, "a", "small")).temperature == 0.3
    assert (await resolved(params, "a", "small")).top_k == 2
    assert (await resolved(params, "a", "large")).temperature == 0.2
    assert (await resolved(params, "a")).temperature == 0.2
    assert (await resolved(params, "b", "small")).temperature == 0.1


@asynchronous
async def test_nothing_puts_a_field_back_to_the_layer_below() -> None:
    params, _ = house(temperature=0.1)
    await params.set("a", "", {"temperature": 0.2, "seed": 3})
    await params.set("a", "small", {"temperature": 0.3})
    assert (await params.set("a", "small", {"temperature": None})).temperature == 0.2
    assert (await params.set("a", "", {"temperature": None})).temperature == 0.1
    assert (await resolved(params, "a")).seed == 3


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("", {"min_length": 11}),
        ("", {"max_length": 1, "min_length": 2}),
        ("small", {"min_length": 6}),
        ("small", {"max_length": 5, "min_length": 6, "top_k": 1}),
    ],
)
def test_what_contradicts_itself_is_refused_and_nothing_is_kept(
    model: str, changes: Mapping[str, Value]
) -> None:
    @asynchronous
    async def ask() -> None:
        params, shelf = house(max_length=10)
        await params.set("a", "", {"max_length": None, "seed": 1})
        await params.set("a", "small", {"max_length": 5})
        before = dict(shelf.kept)
        with pytest.raises(errors.InvalidRequest, match="min_length") as raised:
            await params.set("a", model, changes)
        assert raised.value.param == "min_length"
        assert shelf.kept == before

    ask()


@asynchronous
async def test_every_value_is_shown_with_the_layer_that_decided_it() -> None:
    params, _ = house(top_p=0.5, top_k=7)
    await params.set("a", "", {"top_k": 8, "do_sample": False, "stop": "end"})
    await params.set("a", "small", {"do_sample": True})
    shown = await params.show("a", "small")
    assert set(shown) == set(KEPT)
    assert shown["temperature"] == Setting(value=0.7, source=Source.DEFAULT)
    assert shown["top_p"] == Setting(value=0.5, source=Source.SETTINGS)
    assert shown["top_k"] == Setting(value=8, source=Source.CLIENT)
    assert shown["stop"] == Setting(value=["end"], source=Source.CLIENT)
    assert shown["do_sample"] == Setting(value=True, source=Source.MODEL)
    assert (await params.show("a"))["do_sample"] == Setting(value=False, source=Source.CLIENT)


@asynchronous
async def test_layers_that_contradict_each_other_can_still_be_seen() -> None:
    params, _ = house()
    await params.set("a", "small", {"min_length": 100})
    await params.set("a", "", {"max_length": 10})
    shown = await params.show("a", "small")
    assert (shown["min_length"].value, shown["max_length"].value) == (100, 10)


@asynchronous
async def test_forgetting_takes_one_model_or_everything_of_one_client() -> None:
    params, shelf = house()
    for client in ("a", "b"):
        await params.set(client, "", {"top_k": 1})
        await params.set(client, "small", {"top_k": 2})
    await params.forget("a", "small")
    assert sorted(shelf.kept) == [("a", ""), ("b", ""), ("b", "small")]
    await params.forget("a")
    assert sorted(shelf.kept) == [("b", ""), ("b", "small")]

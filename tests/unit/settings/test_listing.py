"""The settings as they are shown: all of them, and no secret."""

from __future__ import annotations

import msgspec
import pytest

from lemonade_serve.settings import Settings, load_sourced
from lemonade_serve.settings.listing import Entry, entries


def listed(**environment: str) -> dict[str, Entry]:
    variables = {f"LEMONADE_{name}": value for name, value in environment.items()}
    return {entry.key: entry for entry in entries(load_sourced(environment=variables))}


def test_every_key_is_there_once_in_the_schemas_order() -> None:
    keys = [entry.key for entry in entries(load_sourced(environment={}))]
    assert len(keys) == len(set(keys))
    sections = list(dict.fromkeys(key.split(".")[0] for key in keys))
    assert sections == list(Settings.__struct_fields__)
    assert [key for key in keys if key.startswith("log.")] == ["log.level", "log.format"]
    assert "devices.npu.max_models" in keys


def test_a_value_has_the_type_that_toml_gives_it() -> None:
    found = listed(POOL__PRELOAD="a:b", SERVER__PORT="80")
    assert (found["pool.preload"].value, found["pool.preload"].source) == (
        ["a", "b"],
        "LEMONADE_POOL__PRELOAD",
    )
    assert found["server.port"].value == 80
    assert found["server.uds"] == Entry(path=("server", "uds"), value=None, source="default")


def test_a_key_is_never_shown_but_its_owner_and_source_are() -> None:
    found = listed(API_KEYS__ALICE="geheim")
    alice = found["api_keys.alice"]
    assert (alice.value, alice.source) == ("***", "LEMONADE_API_KEYS__ALICE")
    assert b"geheim" not in msgspec.json.encode(list(found.values()))


def test_without_keys_there_is_an_empty_table() -> None:
    assert listed()["api_keys"].value == {}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:geheim@db/x", "postgresql://me:***@db/x"),
        (
            "postgresql+asyncpg://me:geheim@db:5432/x?a=b",
            "postgresql+asyncpg://me:***@db:5432/x?a=b",
        ),
        ("postgresql://me:ge@he/im@db/x", "postgresql://me:***@db/x"),
        ("postgresql://me:geheim#@db/x", "postgresql://me:***@db/x"),
        ("postgresql://:geheim@db/x", "postgresql://:***@db/x"),
        ("postgresql://me@db:5432/x", "postgresql://me@db:5432/x"),
        ("postgresql://db:5432/x", "postgresql://db:5432/x"),
        (
            "postgresql://db/x?user=me&Password=geheim&a=b",
            "postgresql://db/x?user=me&Password=***&a=b",
        ),
        ("postgresql://db/x?sslpassword=geheim", "postgresql://db/x?sslpassword=***"),
        ("user=me password=geheim", "***"),
    ],
)
def test_a_database_is_shown_without_its_password(url: str, shown: str) -> None:
    assert listed(DATABASE_URL=url)["database_url"].value == shown

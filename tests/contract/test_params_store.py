"""What every `ParamsStore` keeps to: in memory, in SQLite, behind a cache, and in PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
import structlog

from lemonade_serve import errors
from lemonade_serve.domain.ports import ParamsStore
from lemonade_serve.settings import Options
from lemonade_serve.store.cached import CachedParamsStore
from lemonade_serve.store.database import DatabaseParamsStore
from lemonade_serve.store.memory import MemoryParamsStore
from tests.contract import writer
from tests.fakes import asynchronous
from tests.postgres import Postgres

NOTHING = Options()
FULL = Options(
    temperature=0.1,
    top_p=1.0,
    top_k=0,
    min_p=0.05,
    min_length=0,
    max_length=2**40,
    do_sample=False,
    repetition_penalty=1.3,
    presence_penalty=-2.0,
    frequency_penalty=2.0,
    seed=-(2**63),
    stop=["\0", "é\n\"'", "\U0001f34b"],
    ignore_eos=True,
)
ROUNDS = 20


class House(Protocol):
    """Where a store lives. Every `open` is one more program that uses it."""

    def open(
        self, *, max_clients: int = 100, timeout_s: float = 5
    ) -> AbstractAsyncContextManager[ParamsStore]: ...


class MemoryHouse:
    @asynccontextmanager
    async def open(
        self, *, max_clients: int = 100, timeout_s: float = 5
    ) -> AsyncGenerator[ParamsStore]:
        yield MemoryParamsStore(max_clients=max_clients)


class SqliteHouse:
    def __init__(self, directory: Path) -> None:
        self.where: Path | str = directory / "lemonade.db"

    def open(
        self, *, max_clients: int = 100, timeout_s: float = 5
    ) -> AbstractAsyncContextManager[ParamsStore]:
        return DatabaseParamsStore.open(self.where, max_clients=max_clients, timeout_s=timeout_s)

    def execute(self, sql: str) -> str:
        with contextlib.closing(self._connect()) as connection:
            rows = connection.execute(sql).fetchall()
        return "\n".join("|".join(map(str, row)) for row in rows)

    @asynccontextmanager
    async def no_writing(self) -> AsyncGenerator[None]:
        """Somebody else is writing, and takes their time."""
        with contextlib.closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.where, isolation_level=None)


class CachedHouse(SqliteHouse):
    @asynccontextmanager
    async def open(
        self, *, max_clients: int = 100, timeout_s: float = 5
    ) -> AsyncGenerator[ParamsStore]:
        async with super().open(max_clients=max_clients, timeout_s=timeout_s) as store:
            yield CachedParamsStore(store, max_entries=3)


class PostgresHouse:
    def __init__(self, server: Postgres) -> None:
        self.server = server
        self.where = server.new_schema()

    def open(
        self, *, max_clients: int = 100, timeout_s: float = 5
    ) -> AbstractAsyncContextManager[ParamsStore]:
        return DatabaseParamsStore.open(self.where, max_clients=max_clients, timeout_s=timeout_s)

    def execute(self, sql: str) -> str:
        return self.server.execute(sql, self.where)

    @asynccontextmanager
    async def no_writing(self) -> AsyncGenerator[None]:
        import asyncpg

        connection = await asyncpg.connect(self.where)
        async with connection.transaction():
            await connection.execute("LOCK TABLE lemonade_params IN EXCLUSIVE MODE")
            yield
        await connection.close()


POSTGRES = pytest.param("postgres", marks=pytest.mark.system)
keeping = pytest.mark.parametrize("house", ["sqlite", "cached", POSTGRES], indirect=True)
shared = pytest.mark.parametrize("house", ["sqlite", POSTGRES], indirect=True)


@pytest.fixture(params=["memory", "sqlite", "cached", POSTGRES])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    match request.param:
        case "memory":
            return MemoryHouse()
        case "sqlite":
            return SqliteHouse(tmp_path)
        case "cached":
            return CachedHouse(tmp_path)
        case _:
            return PostgresHouse(request.getfixturevalue("postgres"))


def to(**fields: Any) -> Callable[[Options], Options]:
    """A change of some fields."""
    return lambda kept: msgspec.structs.replace(kept, **fields)


def one_more(kept: Options) -> Options:
    return msgspec.structs.replace(kept, seed=(kept.seed or 0) + 1)


class TestKeeping:
    @asynchronous
    async def test_who_set_nothing_has_nothing(self, house: House) -> None:
        async with house.open() as store:
            assert await store.get("somebody") == NOTHING
            assert await store.get("somebody", "small") == NOTHING

    @asynchronous
    async def test_an_edit_returns_what_is_kept_from_then_on(self, house: House) -> None:
        async with house.open() as store:
            assert await store.edit("somebody", "", to(top_k=4)) == Options(top_k=4)
            assert await store.get("somebody") == Options(top_k=4)

    @asynchronous
    async def test_an_edit_starts_from_what_is_kept(self, house: House) -> None:
        async with house.open() as store:
            await store.edit("somebody", "", to(top_k=4, seed=7))
            kept = await store.edit("somebody", "", to(top_k=5, do_sample=False))
            assert kept == Options(top_k=5, seed=7, do_sample=False)

    @asynchronous
    async def test_every_field_is_kept_as_it_is(self, house: House) -> None:
        assert None not in msgspec.structs.astuple(FULL)
        async with house.open() as store:
            await store.edit("somebody", "", lambda _: FULL)
            kept = await store.edit("somebody", "", lambda kept: kept)
            assert (kept, await store.get("somebody")) == (FULL, FULL)

    @asynchronous
    async def test_a_field_can_be_put_back(self, house: House) -> None:
        async with house.open() as store:
            await store.edit("somebody", "", lambda _: FULL)
            await store.edit("somebody", "", to(stop=None, temperature=None))
            wanted = msgspec.structs.replace(FULL, stop=None, temperature=None)
            assert await store.get("somebody") == wanted

    @asynchronous
    async def test_an_edit_that_fails_keeps_what_was(self, house: House) -> None:
        def refuse(kept: Options) -> Options:
            raise errors.InvalidRequest(f"not over {kept.top_k}", param="top_k")

        async with house.open(max_clients=1) as store:
            with pytest.raises(errors.InvalidRequest, match="not over None"):
                await store.edit("nobody", "", refuse)
            await store.edit("somebody", "", to(top_k=4))
            with pytest.raises(errors.InvalidRequest, match="not over 4"):
                await store.edit("somebody", "", refuse)
            assert await store.get("somebody") == Options(top_k=4)

    @asynchronous
    async def test_edits_at_the_same_time_all_count(self, house: House) -> None:
        async with house.open() as store:
            await asyncio.gather(*(store.edit("somebody", "small", one_more) for _ in range(40)))
            assert await store.get("somebody", "small") == Options(seed=40)


class TestSeparating:
    @asynchronous
    async def test_clients_do_not_see_each_other(self, house: House) -> None:
        names = ["a", "A", "a.b", "a:b", "a_b", "a-b", "%", "x" * 129, "ключ/é", ""]
        async with house.open() as store:
            for number, name in enumerate(names):
                await store.edit(name, "", to(seed=number))
            kept = [(await store.get(name)).seed for name in names]
        assert kept == list(range(len(names)))

    @asynchronous
    async def test_a_model_has_its_own_besides_those_for_all(self, house: House) -> None:
        async with house.open() as store:
            for number, model in enumerate(["", "small", "org/small", "Small"]):
                await store.edit("somebody", model, to(seed=number))
            assert (await store.get("somebody")).seed == 0
            assert (await store.get("somebody", "org/small")).seed == 2
            assert await store.get("somebody", "large") == NOTHING

    @asynchronous
    async def test_one_set_can_be_forgotten(self, house: House) -> None:
        async with house.open() as store:
            for client in ("a", "b"):
                await store.edit(client, "", to(seed=1))
                await store.edit(client, "small", to(seed=2))
            await store.forget("a", "")
            assert await store.get("a") == NOTHING
            assert await store.get("a", "small") == Options(seed=2)
            assert await store.get("b") == Options(seed=1)

    @asynchronous
    async def test_all_of_a_client_can_be_forgotten(self, house: House) -> None:
        async with house.open() as store:
            for client in ("a", "b"):
                await store.edit(client, "", to(seed=1))
                await store.edit(client, "small", to(seed=2))
            await store.forget("a")
            await store.forget("nobody")
            assert [await store.get("a"), await store.get("a", "small")] == [NOTHING, NOTHING]
            assert await store.get("b", "small") == Options(seed=2)


class TestLimit:
    @asynchronous
    async def test_one_client_too_many_is_refused(self, house: House) -> None:
        async with house.open(max_clients=2) as store:
            for client in ("a", "b"):
                await store.edit(client, "", to(seed=1))
            with pytest.raises(errors.ClientLimit):
                await store.edit("c", "", to(seed=1))
            assert await store.get("c") == NOTHING
            await store.edit("a", "small", to(seed=1))
            await store.edit("b", "", to(seed=2))
            assert await store.get("a", "small") == Options(seed=1)

    @asynchronous
    async def test_who_keeps_nothing_takes_no_place(self, house: House) -> None:
        async with house.open(max_clients=1) as store:
            await store.edit("a", "", to(seed=1))
            assert await store.edit("b", "", to(seed=None)) == NOTHING
            await store.edit("a", "", to(seed=None))
            await store.edit("b", "", to(seed=1))
            await store.forget("b")
            await store.edit("c", "", to(seed=1))
            assert await store.get("c") == Options(seed=1)

    @shared
    @asynchronous
    async def test_two_daemons_have_one_limit(self, house: House) -> None:
        async with house.open(max_clients=5) as one, house.open(max_clients=5) as other:
            writes = [(one, other)[n % 2].edit(f"c{n}", "", to(seed=1)) for n in range(20)]
            ended = await asyncio.gather(*writes, return_exceptions=True)
            assert {type(end) for end in ended} == {Options, errors.ClientLimit}
            kept = [await one.get(f"c{n}") for n in range(20)]
            assert len([options for options in kept if options != NOTHING]) == 5


class TestLasting:
    @keeping
    @asynchronous
    async def test_what_was_written_is_there_when_it_is_opened_again(self, house: House) -> None:
        async with house.open() as store:
            await store.edit("somebody", "small", lambda _: FULL)
            await store.edit("somebody", "", to(seed=1))
            await store.forget("somebody", "")
        async with house.open() as store:
            assert await store.get("somebody", "small") == FULL
            assert await store.get("somebody") == NOTHING

    @keeping
    @asynchronous
    async def test_only_what_is_set_takes_room(self, house: Any) -> None:
        async with house.open() as store:
            await store.edit("somebody", "small", to(top_k=4, stop="\0"))
            await store.edit("somebody", "large", to(top_k=None))
        rows = house.execute("SELECT client, model, options FROM lemonade_params")
        assert rows == r'somebody|small|{"top_k":4,"stop":"\u0000"}'

    @shared
    @asynchronous
    async def test_two_daemons_lose_none_of_each_others_edits(self, house: House) -> None:
        async with house.open() as one, house.open() as other:
            edits = [store.edit("new", "", one_more) for _ in range(20) for store in (one, other)]
            await asyncio.gather(*edits)
            assert await one.get("new") == await other.get("new") == Options(seed=40)
            await other.forget("new")
            assert await one.get("new") == NOTHING

    @shared
    @asynchronous
    async def test_edits_and_forgetting_take_turns(self, house: House) -> None:
        async with house.open() as one, house.open() as other:
            await one.edit("somebody", "", one_more)
            for _ in range(20):
                edited, _ = await asyncio.gather(
                    one.edit("somebody", "", one_more), other.forget("somebody")
                )
                assert edited.seed in (1, 2)
                assert await one.get("somebody") in (NOTHING, Options(seed=1))
                await one.edit("somebody", "", to(seed=1))

    @shared
    @asynchronous
    async def test_daemons_that_start_together_make_one_schema(self, house: House) -> None:
        async with contextlib.AsyncExitStack() as stack:
            opening = [stack.enter_async_context(house.open()) for _ in range(4)]
            stores = await asyncio.gather(*opening)
            await stores[0].edit("somebody", "", to(seed=1))
            assert await stores[3].get("somebody") == Options(seed=1)

    @keeping
    @asynchronous
    async def test_a_newer_schema_is_refused_and_left_alone(self, house: Any) -> None:
        async with house.open():
            pass
        house.execute("UPDATE lemonade_schema SET version_num = '9999'")
        with pytest.raises(errors.SettingsError, match="made by a newer lemonade-serve; upgrade"):
            async with house.open():
                pass
        assert house.execute("SELECT version_num FROM lemonade_schema") == "9999"

    @shared
    def test_no_write_is_lost_or_halved_when_its_writer_is_killed(self, house: Any) -> None:
        chance = random.Random(house.__class__.__name__)  # noqa: S311
        written = -1
        for _ in range(ROUNDS):
            process, heard = writer.start(writer.write_numbers, house.where, written + 1)
            for _ in range(chance.randrange(1, 8)):
                written = heard.recv()
            heard.poll(chance.uniform(0, 0.005))
            process.kill()
            with contextlib.suppress(EOFError):
                while True:
                    written = heard.recv()
            process.join()
            kept = asyncio.run(numbers(house))
            last = max(kept)
            assert last in (written, written + 1)
            expected = [n for n in range(last - writer.MODELS + 1, last + 1) if n >= 0]
            assert sorted(n for n in kept if n >= 0) == expected


class TestFailing:
    @shared
    @asynchronous
    async def test_what_takes_too_long_is_unavailable(self, house: Any) -> None:
        async with house.open() as store:
            await store.edit("somebody", "", to(seed=1))
        async with house.open(timeout_s=0.5) as store:
            async with house.no_writing():
                edits = [store.edit("somebody", "", to(seed=2)) for _ in range(8)]
                ended = await asyncio.gather(*edits, return_exceptions=True)
                assert {type(end) for end in ended} == {errors.StoreUnavailable}
                with pytest.raises(errors.StoreUnavailable):
                    await store.forget("somebody")
                assert await store.get("somebody") == Options(seed=1)
            while True:
                with contextlib.suppress(errors.StoreUnavailable):
                    assert await store.edit("somebody", "", one_more) == Options(seed=2)
                    break

    @keeping
    @asynchronous
    async def test_who_leaves_while_writing_hurts_nobody(self, house: Any) -> None:
        async with house.open() as store:
            async with house.no_writing():
                for turns in range(40):
                    leaving = asyncio.create_task(store.edit("somebody", "", one_more))
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    leaving.cancel()
                    await asyncio.wait({leaving})
                    assert leaving.cancelled()
            kept = await store.edit("somebody", "", one_more)
            assert await store.get("somebody") == kept
        async with house.open() as store:
            assert (await store.get("somebody")).seed in range(1, 42)

    @keeping
    def test_what_a_client_keeps_is_never_logged(
        self, house: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def use() -> None:
            async with house.open() as store:
                await store.edit("secretive", "", to(stop="secret"))
                await store.edit("secretive", "", one_more)
                await store.get("secretive")

        with caplog.at_level("DEBUG"):
            asyncio.run(use())
        assert "secret" not in caplog.text

    @keeping
    @asynchronous
    async def test_a_store_that_is_closed_says_so(self, house: House) -> None:
        async with house.open() as store:
            pass
        with pytest.raises(errors.StoreUnavailable):
            await store.edit("somebody", "", to(seed=1))

    @shared
    @asynchronous
    async def test_a_row_that_makes_no_sense_is_unavailable_until_forgotten(
        self, house: Any
    ) -> None:
        async with house.open() as store:
            house.execute("""INSERT INTO lemonade_params VALUES ('a', '', '{"top_k": -1}')""")
            with pytest.raises(errors.StoreUnavailable, match="top_k"):
                await store.get("a")
            with pytest.raises(errors.StoreUnavailable, match="top_k"):
                await store.edit("a", "", to(seed=1))
            await store.forget("a")
            assert await store.edit("a", "", to(seed=1)) == Options(seed=1)


class TestSqlite:
    @pytest.fixture(params=["a directory", "no database", "in no directory"])
    def unusable(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        path = tmp_path / "lemonade.db"
        match request.param:
            case "a directory":
                path.mkdir()
            case "no database":
                path.write_bytes(b"garbage " * 1000)
            case _:
                return tmp_path / "nowhere" / path.name
        return path

    @asynchronous
    async def test_a_file_that_cannot_be_used_is_named(self, unusable: Path) -> None:
        with pytest.raises(errors.StoreUnavailable, match=r"lemonade\.db: .+"):
            async with DatabaseParamsStore.open(unusable, max_clients=1, timeout_s=5):
                pass

    @asynchronous
    async def test_a_file_that_is_spoilt_while_it_is_used_is_unavailable(
        self, tmp_path: Path
    ) -> None:
        house = SqliteHouse(tmp_path)
        async with house.open() as store:
            house.execute("DROP TABLE lemonade_params")
            unavailable = pytest.raises(errors.StoreUnavailable)
            with structlog.testing.capture_logs() as logged, unavailable as raised:
                await store.edit("somebody", "", to(seed=1))
        assert logged == [
            {
                "event": "store_failed",
                "log_level": "warning",
                "operation": "edit",
                "reason": "no such table: lemonade_params",
            }
        ]
        assert "somebody" not in f"{raised.value} {raised.value.__cause__}"

    def test_a_full_disk_is_unavailable_and_costs_nothing(self, tmp_path: Path) -> None:
        process, heard = writer.start(writer.fill_the_disk, tmp_path / "lemonade.db")
        refused, error = heard.recv()
        assert error == "StoreUnavailable"
        assert refused > writer.MODELS
        assert heard.recv() == list(range(refused - writer.MODELS, refused))
        assert heard.recv() == refused
        process.join()
        assert process.exitcode == 0


@pytest.mark.system
class TestPostgres:
    @pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
    @asynchronous
    async def test_each_way_to_write_its_url_works(self, scheme: str, postgres: Postgres) -> None:
        url = postgres.new_schema().replace("postgresql:", f"{scheme}:")
        async with DatabaseParamsStore.open(url, max_clients=1, timeout_s=5) as store:
            assert await store.edit("somebody", "", to(seed=1)) == Options(seed=1)

    @pytest.mark.parametrize(
        ("user", "database", "reason"),
        [("postgres", "nowhere", 'database "nowhere" does not exist'), ("eve", "postgres", "eve")],
    )
    @asynchronous
    async def test_what_it_refuses_is_told_without_the_password(
        self, user: str, database: str, reason: str, postgres: Postgres
    ) -> None:
        url = postgres.url(database, user=user, password="sesame")  # noqa: S106
        with pytest.raises(errors.StoreUnavailable, match=reason) as raised:
            async with DatabaseParamsStore.open(url, max_clients=1, timeout_s=5):
                pass
        assert "sesame" not in raised.value.message

    @asynchronous
    async def test_a_server_that_stops_is_unavailable_until_it_is_back(
        self, postgres: Postgres
    ) -> None:
        house = PostgresHouse(postgres)
        async with house.open() as store:
            await store.edit("somebody", "", to(seed=1))
            postgres.stop()
            try:
                with pytest.raises(errors.StoreUnavailable):
                    await store.get("somebody")
                with pytest.raises(errors.StoreUnavailable):
                    await store.edit("somebody", "", one_more)
                with pytest.raises(errors.StoreUnavailable, match="postgresql:///postgres: "):
                    async with house.open():
                        pass
            finally:
                postgres.start()
            assert await store.get("somebody") == Options(seed=1)
            assert await store.edit("somebody", "", one_more) == Options(seed=2)

    @asynchronous
    async def test_a_server_that_was_restarted_while_nobody_asked_is_no_failure(
        self, postgres: Postgres
    ) -> None:
        async with PostgresHouse(postgres).open() as store:
            edits = (store.edit("somebody", "", one_more) for _ in range(20))
            await asyncio.gather(*edits)
            postgres.stop()
            postgres.start()
            assert await store.get("somebody") == Options(seed=20)
            assert await store.edit("somebody", "", one_more) == Options(seed=21)

    @asynchronous
    async def test_connections_that_hang_are_replaced(self, postgres: Postgres) -> None:
        house = PostgresHouse(postgres)
        async with house.open(timeout_s=1) as store:
            await store.edit("somebody", "", one_more)
            with postgres.connections_hang():
                with pytest.raises(errors.StoreUnavailable):
                    await store.edit("somebody", "", one_more)
                while True:
                    with contextlib.suppress(errors.StoreUnavailable):
                        assert await store.get("somebody") == Options(seed=1)
                        break
            assert (await store.edit("somebody", "", one_more)).seed in (2, 3)


async def numbers(house: House) -> list[int]:
    """What the writer has kept, by model; -1 for a model that it has not come to."""
    async with house.open() as store:
        kept = [await store.get("client", f"m{n}") for n in range(writer.MODELS)]
    for options in kept:
        assert options in (NOTHING, writer.numbered(options.seed or 0))
    return [-1 if options.seed is None else options.seed for options in kept]

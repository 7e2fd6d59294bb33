"""What the `openai` package does with errors, delays and departures, and for whom it asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from tests import checkpoints
from tests.acceptance.openai_clients import HOW, KEY, async_client_of, client_of, free_port
from tests.daemon import MODEL, Daemon, eventually
from tests.gallery import BASE, CUT, HUGE, Gallery

HELLO: Any = [{"role": "user", "content": "Hello"}]
ENDLESS: dict[str, Any] = {"max_tokens": 4000, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def narrow(gallery: Gallery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One request at a time, none that waits, and short bodies."""
    settings = {
        "LEMONADE_CACHE_DIR": str(gallery.root),
        "LEMONADE_SERVER__MAX_BODY_BYTES": "4000",
        "LEMONADE_WORKER__MAX_QUEUE": "0",
        "LEMONADE_WORKER__SEQUENCE_SLOTS": "1",
    }
    with Daemon.start(tmp_path_factory.mktemp("narrow"), settings) as daemon:
        yield daemon


def idle(daemon: Daemon) -> bool:
    return not any(model["is_busy"] for model in daemon.health()["all_models_loaded"])


@pytest.mark.parametrize(
    ("model", "said", "kind", "facts"),
    [
        (MODEL, {"temperature": 3}, openai.BadRequestError, (400, "invalid_request_error")),
        (BASE, {}, openai.BadRequestError, (400, "no_chat_template")),
        ("nobody", {}, openai.NotFoundError, (404, "model_not_found")),
        ("org/nobody", {}, openai.NotFoundError, (404, "model_not_found")),
        (MODEL, {"user": "u" * 4000}, openai.APIStatusError, (413, "request_too_large")),
        (CUT, {}, openai.InternalServerError, (500, "model_load_error")),
        (HUGE, {}, openai.InternalServerError, (503, "no_capacity")),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_is_of_its_own_class(
    narrow: Daemon,
    model: str,
    said: dict[str, Any],
    kind: type[openai.APIStatusError],
    facts: tuple[int, str],
    stream: bool,
) -> None:
    with client_of(narrow) as client, pytest.raises(kind) as raised:
        client.chat.completions.create(model=model, messages=HELLO, stream=stream, **said)
    assert (raised.value.status_code, raised.value.code) == facts
    assert raised.value.request_id
    assert raised.value.message


def test_a_key_that_is_wrong_is_an_authentication_error(keyed: Daemon) -> None:
    with client_of(keyed) as stranger, pytest.raises(openai.AuthenticationError) as raised:
        stranger.models.list()
    assert (raised.value.status_code, raised.value.type) == (401, "authentication_error")
    with client_of(keyed, api_key=KEY) as alice:
        assert [model.id for model in alice.models.list()] == [MODEL]


def test_a_page_of_another_site_is_a_permission_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.PermissionDeniedError):
        client.models.list(extra_headers={"Sec-Fetch-Site": "cross-site"})


def test_a_full_queue_is_a_rate_limit_and_a_retry_is_answered(narrow: Daemon) -> None:
    with client_of(narrow) as client:
        stream = client.completions.create(model=MODEL, prompt="Once", stream=True, **ENDLESS)
        next(iter(stream))
        with pytest.raises(openai.RateLimitError) as raised:
            client.completions.create(model=MODEL, prompt="x", max_tokens=1)
        assert int(raised.value.response.headers["retry-after"]) >= 1
        refused = len(narrow.logged("request_finished", status=429))
        with ThreadPoolExecutor(1) as beside, client_of(narrow, max_retries=5) as patient:
            answer = beside.submit(
                patient.completions.create, model=MODEL, prompt="x", max_tokens=1
            )
            eventually(lambda: len(narrow.logged("request_finished", status=429)) > refused)
            stream.close()
            assert answer.result().choices
    eventually(lambda: idle(narrow))


def test_a_daemon_that_is_gone_is_a_connection_error(start_daemon: Callable[..., Daemon]) -> None:
    port = free_port()  # httpcore forgets to close a Unix socket that refuses it
    daemon = start_daemon(LEMONADE_SERVER__PORT=str(port))
    with openai.OpenAI(**{**HOW, "base_url": f"http://127.0.0.1:{port}/v1"}) as client:
        assert client.models.list().data
        daemon.kill()
        with pytest.raises(openai.APIConnectionError):
            client.models.list()


def test_an_answer_says_which_request_it_is_of(client: openai.OpenAI) -> None:
    answer = client.with_raw_response.completions.create(model=MODEL, prompt="x", max_tokens=1)
    said = answer.headers["x-request-id"]
    assert answer.parse()._request_id == said
    again = client.with_raw_response.completions.create(
        model=MODEL, prompt="x", max_tokens=1, extra_headers={"X-Request-Id": "mine"}
    )
    assert again.headers["x-request-id"] == "mine"


class TestDepartures:
    """Nobody generates for a client that left."""

    def test_a_timeout_is_the_package_s_own_error_and_ends_the_generation(
        self, shared_daemon: Daemon, client: openai.OpenAI
    ) -> None:
        client.completions.create(model=MODEL, prompt="x", max_tokens=1)
        with pytest.raises(openai.APITimeoutError):
            client.completions.create(model=MODEL, prompt="Once", timeout=0.5, **ENDLESS)
        eventually(lambda: idle(shared_daemon))

    @pytest.mark.parametrize("endpoint", ["chat", "text"])
    def test_a_stream_that_is_closed_ends_the_generation(
        self, shared_daemon: Daemon, client: openai.OpenAI, endpoint: str
    ) -> None:
        stream: Any = (
            client.chat.completions.create(model=MODEL, messages=HELLO, stream=True, **ENDLESS)
            if endpoint == "chat"
            else client.completions.create(model=MODEL, prompt="Once", stream=True, **ENDLESS)
        )
        for _ in zip(range(3), stream, strict=False):
            pass
        assert shared_daemon.model()["is_streaming"]
        stream.close()
        eventually(lambda: idle(shared_daemon))

    def test_a_task_that_is_cancelled_ends_the_generation(self, shared_daemon: Daemon) -> None:
        async def leave() -> None:
            async with async_client_of(shared_daemon) as client:
                asking = asyncio.create_task(
                    client.completions.create(model=MODEL, prompt="Once", **ENDLESS)
                )
                await asyncio.to_thread(eventually, lambda: not idle(shared_daemon))
                asking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asking

        shared_daemon.use(MODEL)
        asyncio.run(leave())
        eventually(lambda: idle(shared_daemon))


def test_many_tasks_are_answered_at_once(shared_daemon: Daemon) -> None:
    async def ask() -> list[str]:
        async with async_client_of(shared_daemon) as client:
            answers = await asyncio.gather(
                *(
                    client.completions.create(
                        model=MODEL, prompt=f"{n}, {n + 1},", temperature=0, max_tokens=4
                    )
                    for n in range(12)
                )
            )
            return [answer.choices[0].text for answer in answers]

    assert asyncio.run(ask()) == asyncio.run(ask())


@pytest.mark.parametrize("how", [{}, {"n": 2}, {"stop": ["."]}, {"logprobs": 1}])
def test_the_same_seed_says_the_same_twice(client: openai.OpenAI, how: dict[str, Any]) -> None:
    said = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 24, "temperature": 1, **how}

    def texts(seed: int) -> list[str]:
        answer = client.completions.create(**said, seed=seed)
        assert answer.system_fingerprint
        return [choice.text for choice in answer.choices]

    assert texts(7) == texts(7) != texts(8)


def test_what_a_client_keeps_applies_where_a_request_says_nothing(shared_daemon: Daemon) -> None:
    headers = {"X-Client-Id": "openai-package"}

    def tokens(**said: Any) -> list[int]:
        with client_of(shared_daemon, default_headers=headers) as client:
            text = client.completions.create(model=MODEL, prompt="One, two,", **said)
            chat = client.chat.completions.create(model=MODEL, messages=HELLO, **said)
        return [answer.usage.completion_tokens for answer in (text, chat) if answer.usage]

    kept = {"max_length": 3, "min_length": 3, "model": MODEL}
    answer = shared_daemon.client.post("/api/v0/params", json=kept, headers=headers)
    assert answer.status_code == 200
    assert tokens() == [3, 3]
    assert tokens(max_tokens=5, extra_body={"min_tokens": 5}) == [5, 5]
    shared_daemon.client.delete("/api/v0/params", headers=headers)
    assert tokens(max_tokens=4, extra_body={"ignore_eos": True}) == [4, 4]


def test_a_model_may_have_a_slash_in_its_name(
    start_daemon: Callable[..., Daemon], cache_dir: Path, tmp_path: Path
) -> None:
    checkpoints.link(checkpoints.original(cache_dir), tmp_path / "cache" / "org" / "small" / "int8")
    daemon = start_daemon(LEMONADE_CACHE_DIR=str(tmp_path / "cache"))
    for base in ("http://daemon/v1", "http://daemon/api/v1"):
        with client_of(daemon, base_url=base) as client:
            assert [model.id for model in client.models.list()] == ["org/small"]
            assert client.models.retrieve("org/small").id == "org/small"
            for unknown in ("org/large", "small"):
                with pytest.raises(openai.NotFoundError) as raised:
                    client.models.retrieve(unknown)
                assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
    with client_of(daemon) as client:
        answer = client.completions.create(model="org/small", prompt="x", max_tokens=1)
    assert answer.model == "org/small"

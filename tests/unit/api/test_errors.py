"""How an error looks from outside."""

from __future__ import annotations

import inspect

import httpx
import msgspec
import pytest
from litestar.exceptions import HTTPException, NotFoundException, ValidationException

from lemonade_serve import errors
from lemonade_serve.api.errors import Shown, show, speaks_spec
from lemonade_serve.settings import Server
from tests.fakes import asynchronous
from tests.unit.api.conftest import Open

TABLE = [
    (errors.InvalidRequest, 400, "invalid_request_error", "invalid_request_error", None),
    (errors.ContextLengthExceeded, 400, "invalid_request_error", "context_length_exceeded", None),
    (errors.DeviceUnavailable, 400, "invalid_request_error", "device_unavailable", None),
    (errors.NoChatTemplate, 400, "invalid_request_error", "no_chat_template", None),
    (errors.Unauthenticated, 401, "authentication_error", "authentication_error", None),
    (errors.NotAllowed, 403, "permission_error", "permission_error", None),
    (errors.ModelNotFound, 404, "invalid_request_error", "model_not_found", None),
    (errors.ResponseNotFound, 404, "invalid_request_error", "response_not_found", None),
    (errors.QueueFull, 429, "rate_limit_error", "rate_limit_error", 1),
    (errors.ClientLimit, 429, "rate_limit_error", "client_limit", 60),
    (errors.Unavailable, 503, "overloaded", "overloaded", 1),
    (errors.SlotsPinned, 503, "overloaded", "slots_pinned_error", 10),
    (errors.NoCapacity, 503, "overloaded", "no_capacity", 5),
    (errors.NoDevice, 503, "overloaded", "no_device", 60),
    (errors.StoreUnavailable, 503, "overloaded", "store_unavailable", 5),
    (errors.Draining, 503, "overloaded", "draining", 5),
    (errors.ModelLoadError, 500, "server_error", "model_load_error", None),
    (errors.GenerationFailed, 500, "server_error", "generation_failed", None),
    (errors.WorkerLost, 500, "server_error", "worker_lost", None),
    (errors.LemonadeError, 500, "server_error", "server_error", None),
]

SPEC_PATHS = [
    "/api/v0/completions",
    "/api/v0/completions/",
    "/api/v0/load",
    "/api/v0/unload",
    "/api/v0/pin",
    "/api/v0/unpin",
    "/api/v0/health",
    "/api/v0/models",
    "/api/v0/params",
    "/api/v0/stats",
]
OPENAI_PATHS = [
    "/v1/completions",
    "/api/v1/chat/completions",
    "/api/v0/chat/completions",
    "/api/v0/nothing",
    "/api/v0/models/org/large",
    "/api/v0",
    "/api/v01/completions",
    "/x/api/v0/completions",
    "/",
]


@pytest.mark.parametrize(("kind", "status", "type", "code", "retry"), TABLE)
def test_an_error_has_its_status_type_and_code(
    kind: type[errors.LemonadeError], status: int, type: str, code: str, retry: int | None
) -> None:
    assert show(kind("why", param="field")) == Shown(status, type, code, "why", "field", retry)


def test_every_error_has_a_face() -> None:
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.LemonadeError):
            assert show(kind()).status >= 400


@pytest.mark.parametrize("path", SPEC_PATHS)
def test_the_specifications_routes_answer_in_its_shape(path: str) -> None:
    assert speaks_spec(path)
    body = show(errors.ModelNotFound("who?")).body(path)
    assert msgspec.to_builtins(body) == {
        "status": "error",
        "message": "who?",
        "code": "model_not_found",
    }


@pytest.mark.parametrize("path", OPENAI_PATHS)
def test_all_other_routes_answer_in_openais_shape(path: str) -> None:
    assert not speaks_spec(path)
    body = show(errors.ModelNotFound("who?", param="model")).body(path)
    assert msgspec.to_builtins(body) == {
        "error": {
            "message": "who?",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }


def test_an_error_that_nobody_foresaw_says_nothing_of_the_inside() -> None:
    shown = show(KeyError("the prompt was: secret"))
    assert (shown.status, shown.type, shown.code) == (500, "server_error", "server_error")
    assert "secret" not in shown.message
    assert show(HTTPException("secret", status_code=500)).message == shown.message


@pytest.mark.parametrize(
    ("status", "code"),
    [(405, "method_not_allowed"), (413, "request_too_large"), (415, "invalid_request_error")],
)
def test_what_the_framework_refuses_keeps_its_status(status: int, code: str) -> None:
    shown = show(HTTPException("no", status_code=status))
    assert (shown.status, shown.code, shown.message) == (status, code, "no")
    assert show(NotFoundException("no")).code == "not_found"


def test_an_unknown_field_is_named_with_its_place() -> None:
    extra = [{"message": "Object contains unknown field `x`", "key": "stream_options"}]
    shown = show(ValidationException(extra=extra))
    assert (shown.status, shown.param) == (400, "stream_options.x")
    assert shown.message == "there is no parameter 'stream_options.x' here"


def test_a_validation_error_without_details_says_what_it_knows() -> None:
    shown = show(ValidationException("no good"))
    assert (shown.status, shown.message, shown.param) == (400, "no good", None)


class TestOverHTTP:
    @pytest.mark.parametrize(
        ("body", "param", "says"),
        [
            ({"prompt": "x", "temperature": 3}, "temperature", "<= 2"),
            ({"prompt": "x", "temprature": 1}, "temprature", "no parameter 'temprature'"),
            ({"prompt": "x", "stop": []}, "stop", "length >= 1"),
            ({"prompt": "x", "temperature": "0.5"}, "temperature", "got `str`"),
            ({"prompt": "x", "ignore_eos": 0}, "ignore_eos", "got `int`"),
            ({"prompt": "x", "seed": "7"}, "seed", "got `str`"),
            ({}, "prompt", "missing required field `prompt`"),
            ({"prompt": ""}, "prompt", "not empty"),
            ({"prompt": "x", "stream_options": {}}, "stream_options", "streams only"),
            ({"prompt": "x", "stream": True, "stream_options": {"y": 1}}, "stream_options.y", "y"),
        ],
    )
    def test_a_parameter_that_is_wrong_is_named(
        self, open_house: Open, body: dict[str, object], param: str, says: str
    ) -> None:
        @asynchronous
        async def ask() -> None:
            async with open_house() as house:
                answer = await house.client.post("/v1/completions", json=body)
                assert answer.status_code == 400
                error = answer.json()["error"]
                assert error["type"] == "invalid_request_error"
                assert says in error["message"]
                assert param == (error["param"] or param)
                assert param in error["message"]

        ask()

    @pytest.mark.parametrize("path", ["/api/v0/completions", "/v1/completions"])
    @pytest.mark.parametrize("content", [b"", b"{", b'{"prompt": "x",}', b"[1]", b"\xff"])
    def test_what_is_no_json_object_is_an_invalid_request(
        self, open_house: Open, path: str, content: bytes
    ) -> None:
        @asynchronous
        async def ask() -> None:
            async with open_house() as house:
                headers = {"content-type": "application/json"}
                answer = await house.client.post(path, content=content, headers=headers)
                assert answer.status_code == 400
                assert _message(answer)

        ask()

    @asynchronous
    async def test_json_that_is_too_deep_is_an_invalid_request(self, open_house: Open) -> None:
        async with open_house() as house:
            headers = {"content-type": "application/json"}
            prompt = b"[" * 5000 + b'"x"' + b"]" * 5000
            body = b'{"model": "small", "prompt": ' + prompt + b"}"
            answer = await house.client.post("/v1/completions", content=body, headers=headers)
            assert answer.status_code == 400
            assert "nested too deeply" in _message(answer)

    @pytest.mark.parametrize("path", ["/api/v0/completions", "/v1/completions"])
    def test_a_body_that_is_missing_is_said_to_be_so(self, open_house: Open, path: str) -> None:
        @asynchronous
        async def ask() -> None:
            async with open_house() as house:
                answer = await house.client.post(path)
                assert answer.status_code == 400
                assert "has no body" in _message(answer)

        ask()

    @asynchronous
    async def test_a_trailing_comma_is_said_to_be_the_fault(self, open_house: Open) -> None:
        async with open_house() as house:
            headers = {"content-type": "application/json"}
            body = b'{"prompt": "x",}'
            answer = await house.client.post("/api/v0/completions", content=body, headers=headers)
            assert "trailing comma" in _message(answer)

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/nothing", 404),
            ("GET", "/v1/nothing", 404),
            ("GET", "/v1/completions", 405),
            ("DELETE", "/api/v0/load", 405),
        ],
    )
    def test_a_route_that_is_not_there_says_so_in_its_dialect(
        self, open_house: Open, method: str, path: str, status: int
    ) -> None:
        @asynchronous
        async def ask() -> None:
            async with open_house() as house:
                answer = await house.client.request(method, path)
                assert answer.status_code == status
                assert ("allow" in answer.headers) == (status == 405)
                assert set(answer.json()) == (
                    {"status", "message", "code"} if speaks_spec(path) else {"error"}
                )

        ask()

    @asynchronous
    async def test_a_body_that_is_too_large_is_refused(self, open_house: Open) -> None:
        async with open_house(server=Server(max_body_bytes=100)) as house:
            answer = await house.client.post("/v1/completions", json={"prompt": "x" * 200})
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == "request_too_large"

    @asynchronous
    async def test_a_model_that_is_not_there_is_404_in_both_dialects(
        self, open_house: Open
    ) -> None:
        async with open_house() as house:
            body = {"model": "nobody", "prompt": "x"}
            spec = await house.client.post("/api/v0/completions", json=body)
            openai = await house.client.post("/v1/completions", json=body)
            assert spec.status_code == openai.status_code == 404
            assert spec.json()["code"] == openai.json()["error"]["code"] == "model_not_found"
            assert openai.json()["error"]["param"] == "model"

    @asynchronous
    async def test_a_retryable_error_says_when_to_come_back(self, open_house: Open) -> None:
        async with open_house() as house:
            house.launcher.failure = errors.Unavailable("not now")
            answer = await house.client.post(
                "/v1/completions", json={"model": "small", "prompt": "x"}
            )
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_failed_load_is_an_honest_status(self, open_house: Open, stream: bool) -> None:
        @asynchronous
        async def ask() -> None:
            async with open_house() as house:
                house.launcher.failure = errors.ModelLoadError("the file is cut")
                body = {"model": "small", "prompt": "x", "stream": stream}
                answer = await house.client.post("/v1/completions", json=body)
                assert answer.status_code == 500
                assert answer.json()["error"]["code"] == "model_load_error"
                assert answer.json()["error"]["message"] == "the file is cut"

        ask()


def _message(answer: httpx.Response) -> str:
    body = answer.json()
    return str(body["message"] if "message" in body else body["error"]["message"])

"""How an error looks from outside: one table, two dialects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec
import structlog
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException, ValidationException

from lemonade_serve import errors

log = structlog.get_logger()


class Face(NamedTuple):
    """What a class of errors shows: a status, and OpenAI's word for its type."""

    status: int
    type: str


_FACES: dict[type[errors.LemonadeError], Face] = {
    errors.InvalidRequest: Face(400, "invalid_request_error"),
    errors.Unauthenticated: Face(401, "authentication_error"),
    errors.NotAllowed: Face(403, "permission_error"),
    errors.ModelNotFound: Face(404, "invalid_request_error"),
    errors.InUse: Face(409, "invalid_request_error"),
    errors.ResponseNotFound: Face(404, "invalid_request_error"),
    errors.QueueFull: Face(429, "rate_limit_error"),
    errors.ClientLimit: Face(429, "rate_limit_error"),
    errors.Unavailable: Face(503, "overloaded"),
    errors.UnsupportedModel: Face(400, "invalid_request_error"),
    errors.DiskFull: Face(507, "server_error"),
    errors.HubError: Face(502, "server_error"),
    errors.LemonadeError: Face(500, "server_error"),
}
"""The nearest class counts."""

_STATUS_CODE = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}

SPEC_ROUTES = frozenset(
    {
        "aliases",
        "completions",
        "health",
        "load",
        "models",
        "params",
        "pin",
        "pull",
        "stats",
        "unload",
        "unpin",
    }
)
"""The names under /api/v0 that speak the Lemonade specification; all others are OpenAI's."""

_MALFORMED = "JSON is malformed"
_PLACE = re.compile(r" - at (`key` in )?`\$\.?(?P<name>[^`]*)`$")
_UNKNOWN_FIELD = re.compile(r"unknown field `(?P<name>[^`]*)`")


class SpecError(msgspec.Struct, frozen=True, kw_only=True):
    """An error as the Lemonade specification has it, with a code for programs."""

    status: Literal["error"] = "error"
    message: str
    code: str


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """`param` is the field at fault, where it is one."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(msgspec.Struct, frozen=True, kw_only=True):
    """An error as OpenAI has it."""

    error: ErrorDetail


_OPENAI_NAMES = {"min_length": "min_tokens", "max_length": "max_tokens"}
"""What OpenAI's dialect calls a parameter."""
_RESPONSES_NAMES = {
    **_OPENAI_NAMES,
    "max_length": "max_output_tokens",
    "messages": "input",
    "response_format": "text.format",
}
"""What its Responses API does."""


class Shown(NamedTuple):
    """An error, ready to be written in any dialect."""

    status: int
    type: str
    code: str
    message: str
    param: str | None = None
    retry_after_s: int | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What a client needs beside the body: when to come back, or how to say who it is."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {"Retry-After": str(self.retry_after_s)} if self.retry_after_s else {}

    def body(self, path: str) -> SpecError | OpenAIError:
        """In the dialect of the route."""
        if speaks_spec(path):
            return self.spec_body()
        return self.responses_body() if path.endswith("/responses") else self.openai_body()

    def spec_body(self) -> SpecError:
        return SpecError(message=self.message, code=self.code)

    def openai_body(self) -> OpenAIError:
        return self._openai_body(_OPENAI_NAMES)

    def responses_body(self) -> OpenAIError:
        return self._openai_body(_RESPONSES_NAMES)

    def _openai_body(self, names: Mapping[str, str]) -> OpenAIError:
        param = names.get(self.param or "", self.param)
        detail = ErrorDetail(message=self.message, type=self.type, param=param, code=self.code)
        return OpenAIError(error=detail)


class ClientGone(Exception):
    """Nobody is there to be answered."""


def speaks_spec(path: str) -> bool:
    prefix, _, rest = path.partition("/api/v0/")
    return prefix == "" and rest.split("/")[0] in SPEC_ROUTES and "/" not in rest.rstrip("/")


def show(error: BaseException) -> Shown:
    """The face of any exception; one that nobody foresaw is a plain 500."""
    if isinstance(error, errors.LemonadeError):
        face = next(_FACES[kind] for kind in type(error).__mro__ if kind in _FACES)
        retry = error.retry_after_s if isinstance(error, errors.Retryable) else None
        return Shown(*face, error.code, error.message, error.param, retry)
    if isinstance(error, ValidationException):
        message, param = _invalid(error)
        return Shown(400, "invalid_request_error", "invalid_request_error", message, param)
    if isinstance(error, RecursionError):  # of the JSON decoder: nothing of ours recurses
        message = f"{_MALFORMED}: it is nested too deeply"
        return Shown(400, "invalid_request_error", "invalid_request_error", message)
    if isinstance(error, HTTPException) and error.status_code < 500:
        code = _STATUS_CODE.get(error.status_code, "invalid_request_error")
        return Shown(error.status_code, "invalid_request_error", code, error.detail)
    return Shown(500, "server_error", "server_error", "internal error; the server's log says more")


def invalid_body(error: msgspec.DecodeError | UnicodeDecodeError) -> errors.InvalidRequest:
    """What msgspec says of a body, as an error that names the field."""
    message = str(error)
    if not isinstance(error, msgspec.ValidationError):
        message = f"{_MALFORMED}: {message.removeprefix(f'{_MALFORMED}: ')}"
        return errors.InvalidRequest(message)
    place = _PLACE.search(message)
    message, param = _named(_PLACE.sub("", message), place["name"] if place else None)
    return errors.InvalidRequest(message, param=param)


def _invalid(error: ValidationException) -> tuple[str, str | None]:
    """Which parameter of a query is wrong, and how."""
    details = error.extra if isinstance(error.extra, list) else []
    for detail in details:
        return _named(str(detail.get("message", "")), detail.get("key"))
    return error.detail, None


def _named(message: str, param: str | None) -> tuple[str, str | None]:
    if unknown := _UNKNOWN_FIELD.search(message):
        param = ".".join(filter(None, [param, unknown["name"]]))
        return f"there is no parameter {param!r} here", param
    return (f"{param}: {message}" if param else message), param or None


def report(event: str, error: Exception) -> None:
    """Log a failure: what is known by its words, what nobody foresaw with its traceback."""
    if isinstance(error, errors.InvalidRequest):
        log.warning(event, code=error.code)  # its message may quote the request
    elif isinstance(error, errors.LemonadeError):
        log.warning(event, code=error.code, reason=error.message)
    else:
        log.error(event, exc_info=error)


def respond(request: Request[Any, Any, Any], error: Exception) -> Response[SpecError | OpenAIError]:
    """The exception handler of the whole application."""
    shown = show(error)
    if isinstance(error, ClientGone):
        shown = shown._replace(status=499)
    elif shown.status == 500:
        report("request_failed", error)
    known = error.headers or {} if isinstance(error, HTTPException) else {}
    return Response(
        shown.body(request.scope["path"]),
        status_code=shown.status,
        headers={**known, **shown.headers},
        media_type=MediaType.JSON,
    )

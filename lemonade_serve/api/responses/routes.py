"""The Responses API's routes. The same handlers answer under all prefixes."""

from __future__ import annotations

import secrets
import time
from typing import Any

import msgspec
from litestar import Request, Response, Router, delete, get, post
from litestar.params import FromPath, FromQuery
from litestar.response import Stream

from lemonade_serve import errors
from lemonade_serve.api import answer
from lemonade_serve.api.access import exchange_of
from lemonade_serve.api.body import Body
from lemonade_serve.api.deps import Bounds, Kept, Service
from lemonade_serve.api.guidance import guidance_of
from lemonade_serve.api.keep_alive import seconds
from lemonade_serve.api.query import nothing_unknown
from lemonade_serve.api.responses import items, schemas
from lemonade_serve.api.responses.tools import chosen
from lemonade_serve.api.responses.writer import ResponseWriter
from lemonade_serve.api.schema.told import GENERATION, MODEL, operation, told
from lemonade_serve.api.verbs import with_all_verbs
from lemonade_serve.domain.completion import ChatPrompt, CompletionRequest, Message, Placement
from lemonade_serve.domain.conversations import Conversations, Turn

_MODEL = "SmolLM2-135M-Instruct"
_ASK = {"model": _MODEL, "input": "What is the capital of France?"}
_WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
_PAGE, _MAX_PAGE = 20, 100
_BODY = Body(
    schemas.ResponseRequest,
    {
        "whole": _ASK,
        "streamed": {**_ASK, "stream": True, "max_output_tokens": 16},
        "continued": {
            "model": _MODEL,
            "previous_response_id": "resp_0123456789abcdef",
            "instructions": "Answer in one word.",
            "input": [{"role": "user", "content": "And of Italy?"}],
        },
        "with a tool": {**_ASK, "tools": [_WEATHER], "tool_choice": "auto"},
        "structured": {
            **_ASK,
            "text": {
                "format": {
                    "type": "json_schema",
                    "name": "city",
                    "schema": {"type": "object", "properties": {"city": {"type": "string"}}},
                }
            },
        },
    },
)
_STREAM = """\
event: response.created
data: {"type":"response.created","sequence_number":0,"response":{…}}

event: response.output_text.delta
data: {"type":"response.output_text.delta","sequence_number":4,"item_id":"…","delta":"Paris",…}

event: response.completed
data: {"type":"response.completed","sequence_number":8,"response":{…}}

"""


@post(
    "/responses",
    status_code=200,
    operation_id=operation("create_response"),
    opt=told(GENERATION, body=_BODY, stream=_STREAM),
)
async def create_response(
    request: Request[Any, Any, Any],
    service: Service,
    bounds: Bounds,
    conversations: Kept,
) -> Response[schemas.Response] | Stream:
    """Answer a conversation, and keep it for a while, so that a later request can go on."""
    data = await _BODY.read(request)
    if data.top_logprobs is not None and not data.logprobs:
        raise errors.InvalidRequest(
            f"top_logprobs is for include: [{schemas.LOGPROBS!r}] only", param="top_logprobs"
        )
    exchange = exchange_of(request.scope)
    said = items.read(data.input)
    before = _before(conversations, exchange.client, data.previous_response_id, exchange.arrived)
    messages = items.converse(before, said)

    def keep(response: schemas.Response) -> None:
        if data.store is not False:
            turn = Turn(
                id=response.id,
                messages=tuple(items.answered(messages, response.output)),
                answer=msgspec.json.encode(response),
                items=msgspec.json.encode(items.listed(said)),
            )
            conversations.keep(exchange.client, turn, time.monotonic())

    instructions = [Message("system", data.instructions)] if data.instructions else []
    tools, choice = chosen(data)
    kwargs = msgspec.json.encode(data.chat_template_kwargs or {}).decode()
    wanted = CompletionRequest(
        prompt=ChatPrompt((*instructions, *messages), tools, choice, kwargs),
        options=data.options(),
        placement=Placement(model=data.model, keep_alive=seconds(data.keep_alive)),
        arrived=exchange.arrived,
        traceparent=exchange.traceparent,
        client=exchange.client,
        endpoint="responses",
        streaming=bool(data.stream),
        guidance=guidance_of(data.text.format) if data.text else None,
    )
    return await answer.give(request, service, wanted, ResponseWriter(_blank(data), keep), bounds)


@get("/responses/{response_id:str}", operation_id=operation("get_response"), opt=told(MODEL))
async def get_response(
    request: Request[Any, Any, Any], conversations: Kept, response_id: FromPath[str]
) -> schemas.Response:
    """One that is kept."""
    turn = _find(request, conversations, response_id)
    return msgspec.json.decode(turn.answer, type=schemas.Response)


@delete(
    "/responses/{response_id:str}",
    status_code=200,
    operation_id=operation("delete_response"),
    opt=told(MODEL),
)
async def delete_response(
    request: Request[Any, Any, Any], conversations: Kept, response_id: FromPath[str]
) -> schemas.DeletedResponse:
    """Forget it. What went on from it stays."""
    exchange = exchange_of(request.scope)
    conversations.forget(exchange.client, response_id, exchange.arrived)
    return schemas.DeletedResponse(id=response_id)


@get(
    "/responses/{response_id:str}/input_items",
    operation_id=operation("list_input_items"),
    opt=told(MODEL),
)
async def list_input_items(
    request: Request[Any, Any, Any],
    conversations: Kept,
    response_id: FromPath[str],
    limit: FromQuery[schemas.PageSize | None] = None,
    order: FromQuery[schemas.Order] = "desc",
    after: FromQuery[str | None] = None,
) -> schemas.InputItems:
    """What it answered, less what came before that: a page of it, by itself 20 items, the last
    ones first."""
    turn = _find(request, conversations, response_id)
    found = msgspec.json.decode(turn.items, type=list[schemas.InputItem])
    if order == "desc":
        found.reverse()
    if after is not None:
        ids = [item.id for item in found]
        if after not in ids:
            raise errors.InvalidRequest(f"there is no item {after!r} here", param="after")
        found = found[ids.index(after) + 1 :]
    size = _PAGE if limit is None else limit
    if not 1 <= size <= _MAX_PAGE:  # Litestar reads a query without the bounds of its types
        raise errors.InvalidRequest(f"limit is 1 to {_MAX_PAGE}", param="limit")
    page = found[:size]
    return schemas.InputItems(
        data=page,
        first_id=str(page[0].id) if page else "",
        last_id=str(page[-1].id) if page else "",
        has_more=len(found) > size,
    )


def _find(request: Request[Any, Any, Any], conversations: Conversations, response_id: str) -> Turn:
    exchange = exchange_of(request.scope)
    return conversations.find(exchange.client, response_id, exchange.arrived)


def _before(
    conversations: Conversations, client: str, previous: str | None, now: float
) -> tuple[Message, ...]:
    if previous is None:
        return ()
    try:
        return conversations.find(client, previous, now).messages
    except errors.ResponseNotFound as error:
        raise errors.ResponseNotFound(error.message, param="previous_response_id") from None


def _blank(data: schemas.ResponseRequest) -> schemas.Response:
    """The answer to a request, as far as the request says it."""
    return schemas.Response(
        id=f"resp_{secrets.token_hex(24)}",
        created_at=int(time.time()),
        model=data.model or "",
        instructions=data.instructions,
        previous_response_id=data.previous_response_id,
        max_output_tokens=data.max_output_tokens,
        temperature=data.temperature,
        top_p=data.top_p,
        top_logprobs=data.top_logprobs,
        text=data.text or schemas.TextConfig(),
        tools=data.tools or [],
        tool_choice=data.tool_choice or "auto",
        parallel_tool_calls=data.parallel_tool_calls is not False,
        metadata=data.metadata or {},
        user=data.user,
        safety_identifier=data.safety_identifier,
        prompt_cache_key=data.prompt_cache_key,
    )


routers = [
    with_all_verbs(
        Router(
            prefix,
            route_handlers=[create_response, get_response, delete_response, list_input_items],
            guards=[nothing_unknown],
            tags=["OpenAI"],
        )
    )
    for prefix in ("/v1", "/api/v1", "/api/v0")
]

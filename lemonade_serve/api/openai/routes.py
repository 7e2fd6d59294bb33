"""OpenAI's routes. The same handlers answer under /v1 and /api/v1, and where the Lemonade
specification does not take the name, under /api/v0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from litestar import Request, Response, Router, get, post
from litestar.params import FromPath
from litestar.response import Stream

from lemonade_serve import errors
from lemonade_serve.api import answer
from lemonade_serve.api.access import exchange_of
from lemonade_serve.api.body import Body
from lemonade_serve.api.deps import Bounds, Finder, Names, Service
from lemonade_serve.api.guidance import guidance_of
from lemonade_serve.api.keep_alive import seconds
from lemonade_serve.api.openai import answers, requests
from lemonade_serve.api.openai.chat import chat_prompt
from lemonade_serve.api.openai.prompts import prompts_of
from lemonade_serve.api.openai.writers import ChatWriter, CompletionWriter
from lemonade_serve.api.query import nothing_unknown
from lemonade_serve.api.schema.told import GENERATION, MODEL, operation, told
from lemonade_serve.domain.checkpoint import AUTO, CheckpointInfo, choose
from lemonade_serve.domain.completion import (
    Adapter,
    ChatPrompt,
    CompletionRequest,
    Placement,
    TextPrompt,
    TokensPrompt,
)
from lemonade_serve.domain.placement import Locator

_MODEL = "SmolLM2-135M-Instruct"
_STREAMED = {"max_tokens": 16, "stream": True, "stream_options": {"include_usage": True}}
_PLAIN = {"model": _MODEL, "prompt": "The capital of France is"}
_COMPLETION = Body(
    requests.CompletionRequest, {"whole": _PLAIN, "streamed": {**_PLAIN, **_STREAMED}}
)
_MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
_SHORT = {"model": _MODEL, "messages": _MESSAGES}
_CHAT = Body(requests.ChatRequest, {"whole": _SHORT, "streamed": {**_SHORT, **_STREAMED}})
_STREAM = """\
data: {"id":"…","object":"…","created":1767225600,"model":"SmolLM2-135M-Instruct","choices":[…]}

data: [DONE]

"""


@post(
    "/completions",
    status_code=200,
    operation_id=operation("create_completion"),
    opt=told(GENERATION, body=_COMPLETION, stream=_STREAM),
)
async def create_completion(
    request: Request[Any, Any, Any],
    service: Service,
    bounds: Bounds,
) -> Response[answers.Completion] | Stream:
    """Continue a prompt, or several."""
    data = await _COMPLETION.read(request)
    writer = CompletionWriter(include_usage=_include_usage(data))
    prompt, *more = prompts_of(data)
    wanted = msgspec.structs.replace(
        _wanted(request, data, prompt, "completions"),
        more_prompts=tuple(more),
        echo=bool(data.echo),
    )
    return await answer.give(request, service, wanted, writer, bounds)


@post(
    "/chat/completions",
    status_code=200,
    operation_id=operation("create_chat_completion"),
    opt=told(GENERATION, body=_CHAT, stream=_STREAM),
)
async def create_chat_completion(
    request: Request[Any, Any, Any],
    service: Service,
    bounds: Bounds,
) -> Response[answers.ChatCompletion] | Stream:
    """Answer a chat, by the model's own template."""
    data = await _CHAT.read(request)
    if data.top_logprobs is not None and not data.logprobs:
        raise errors.InvalidRequest("top_logprobs is for logprobs: true only", param="top_logprobs")
    writer = ChatWriter(include_usage=_include_usage(data))
    wanted = _wanted(request, data, chat_prompt(data), "chat_completions")
    return await answer.give(request, service, wanted, writer, bounds)


@get("/models", operation_id=operation("list_models"), opt=told())
async def list_models(locator: Finder, aliases: Names) -> answers.Models:
    """The models on disk, their adapters, and names that stand for any of them. Of a model that is
    there in several dtypes the preferred one has the model's name, and the others `NAME:DTYPE`."""
    by_name: dict[str, list[CheckpointInfo]] = {}
    for info in await locator.checkpoints():
        by_name.setdefault(info.name, []).append(info)
    models = [model for infos in by_name.values() for model in _family(infos, locator)]
    known = {model.id: model for model in models}
    for alias, target in sorted(aliases.names.items()):
        if target in known:
            models.append(msgspec.structs.replace(known[target], id=alias))
    return answers.Models(data=models)


@get("/models/{model_id:path}", operation_id=operation("retrieve_model"), opt=told(MODEL))
async def retrieve_model(locator: Finder, model_id: FromPath[str]) -> answers.Model:
    """One of them."""
    name = model_id.lstrip("/")
    info, _, adapter = await locator.look(Placement(model=name))
    return _model(name, info, locator, adapter)


def _wanted(
    request: Request[Any, Any, Any],
    data: requests.CompletionRequest | requests.ChatRequest,
    prompt: TextPrompt | TokensPrompt | ChatPrompt,
    endpoint: str,
) -> CompletionRequest:
    exchange, form = exchange_of(request.scope), data.response_format
    return CompletionRequest(
        prompt=prompt,
        options=data.options(),
        placement=Placement(model=data.model, keep_alive=seconds(data.keep_alive)),
        arrived=exchange.arrived,
        traceparent=exchange.traceparent,
        client=exchange.client,
        n=data.n or 1,
        endpoint=endpoint,
        streaming=bool(data.stream),
        guidance=guidance_of(
            form.json_schema if isinstance(form, requests.JsonSchema) else form,
            regex=data.regex,
            grammar=data.grammar,
        ),
    )


def _include_usage(data: requests.Request) -> bool:
    if data.stream_options and not data.stream:
        raise errors.InvalidRequest("stream_options is for streams only", param="stream_options")
    return bool(data.stream_options and data.stream_options.include_usage)


def _family(infos: Sequence[CheckpointInfo], locator: Locator) -> Iterator[answers.Model]:
    """All that one model is, in each dtype: the checkpoints, then what their adapters make."""
    preferred = choose(AUTO, infos)
    ordered = [preferred, *(info for info in infos if info.dtype != preferred.dtype)]
    for info in ordered:
        name = info.name if info is preferred else f"{info.name}:{info.dtype}"
        yield _model(name, info, locator)
    for info in ordered:
        for adapter in info.adapters:
            usual = choose(AUTO, infos, adapter.name) is info
            name = info.name if usual else f"{info.name}:{info.dtype}"
            yield _model(f"{name}:{adapter.name}", info, locator, adapter)


def _model(
    name: str, info: CheckpointInfo, locator: Locator, adapter: Adapter | None = None
) -> answers.Model:
    if adapter:
        info = msgspec.structs.replace(
            info,
            bytes=adapter.bytes,
            modified_s=adapter.modified_ns // 1_000_000_000,
            capabilities=tuple(able for able in info.capabilities if able != "adapters"),
            adapters=(),
        )
    return answers.Model(
        id=name,
        created=info.modified_s,
        root=info.name,
        parent=info.name if adapter else None,
        adapters=tuple(one.name for one in info.adapters),
        capabilities=info.capabilities,
        context_length=info.context_length,
        dtype=info.dtype,
        device=locator.usual_device(info),
        size=info.bytes,
        revision=info.commit,
    )


routers = [
    *(
        Router(
            prefix,
            route_handlers=[create_completion, create_chat_completion, list_models, retrieve_model],
            guards=[nothing_unknown],
            tags=["OpenAI"],
        )
        for prefix in ("/v1", "/api/v1")
    ),
    Router(
        "/api/v0",
        route_handlers=[create_chat_completion],
        guards=[nothing_unknown],
        tags=["OpenAI"],
    ),
]

"""The routes of encoders. The same handlers answer under /v1, /api/v1 and /api/v0, and for Cohere's
clients under /v2."""

from __future__ import annotations

import asyncio
import base64
import secrets
import struct
from array import array
from collections.abc import Sequence
from typing import Any, cast

import msgspec
from litestar import Request, Response, Router, post
from litestar.handlers import HTTPRouteHandler

from lemonade_serve.api.access import exchange_of
from lemonade_serve.api.body import Body
from lemonade_serve.api.connection import while_connected
from lemonade_serve.api.deps import Encoders
from lemonade_serve.api.encoding.inputs import inputs_of
from lemonade_serve.api.encoding.schemas import (
    Document,
    Embedding,
    EmbeddingRequest,
    Embeddings,
    EncodingUsage,
    Reranked,
    RerankRequest,
    RerankResult,
)
from lemonade_serve.api.keep_alive import seconds
from lemonade_serve.api.query import nothing_unknown
from lemonade_serve.api.schema.told import GENERATION, operation, told
from lemonade_serve.domain.encoding import (
    Encoding,
    EncodingRequest,
    EncodingService,
    Placement,
    Task,
    TextPrompt,
    TokensPrompt,
)

_EMBED = Body(
    EmbeddingRequest,
    {"one": {"model": "all-MiniLM-L6-v2", "input": "Lemons are sour."}},
)
_RERANK = Body(
    RerankRequest,
    {
        "two documents": {
            "model": "ms-marco-MiniLM-L6-v2",
            "query": "What is sour?",
            "documents": ["Lemons are sour.", "Sugar is sweet."],
            "top_n": 1,
        }
    },
)
_AT_ONCE = 64
"""Vectors that are written before others on the event loop have their turn."""

_encoder = msgspec.json.Encoder()


@post(
    "/embeddings",
    status_code=200,
    operation_id=operation("create_embedding"),
    opt=told(GENERATION, body=_EMBED),
)
async def create_embedding(
    request: Request[Any, Any, Any], encoders: Encoders
) -> Response[Embeddings]:
    """A vector for each input."""
    data = await _EMBED.read(request)
    encoding, values = await _encode(
        request,
        encoders,
        data,
        task=Task.EMBEDDING,
        inputs=inputs_of(data.input),
        endpoint="embeddings",
        field="input",
        dimensions=data.dimensions,
    )
    written = await _written(values, in_base64=data.encoding_format == "base64")
    body = Embeddings(
        data=[Embedding(index=at, embedding=vector) for at, vector in enumerate(written)],
        model=encoding.model,
        usage=_usage(encoding),
    )
    return Response(body)


@post(
    "/rerank",
    status_code=200,
    operation_id=operation("rerank"),
    opt=told(GENERATION, body=_RERANK),
)
async def rerank(request: Request[Any, Any, Any], encoders: Encoders) -> Response[Reranked]:
    """How much each document says about a query, the best one first."""
    data = await _RERANK.read(request)
    texts = [one if isinstance(one, str) else one.text for one in data.documents]
    encoding, values = await _encode(
        request,
        encoders,
        data,
        task=Task.RERANK,
        inputs=tuple(map(TextPrompt, texts)),
        endpoint="rerank",
        field="documents",
        query=data.query,
    )
    scores = [float(struct.unpack("<f", value)[0]) for value in values]
    best = sorted(range(len(scores)), key=lambda at: -scores[at])[: data.top_n]
    results = [
        RerankResult(
            index=at,
            relevance_score=scores[at],
            document=Document(text=texts[at]) if data.return_documents else msgspec.UNSET,
        )
        for at in best
    ]
    body = Reranked(
        id=f"rerank-{secrets.token_hex(12)}",
        model=encoding.model,
        results=results,
        usage=_usage(encoding),
    )
    return Response(body)


async def _encode(  # noqa: PLR0913, both routes' differences
    request: Request[Any, Any, Any],
    service: EncodingService,
    data: EmbeddingRequest | RerankRequest,
    *,
    task: Task,
    inputs: tuple[TextPrompt | TokensPrompt, ...],
    endpoint: str,
    field: str,
    query: str | None = None,
    dimensions: int | None = None,
) -> tuple[Encoding, list[bytes]]:
    """The request, done; it is given up when the client leaves."""
    exchange = exchange_of(request.scope)
    wanted = EncodingRequest(
        task=task,
        inputs=inputs,
        placement=Placement(model=data.model, keep_alive=seconds(data.keep_alive)),
        arrived=exchange.arrived,
        endpoint=endpoint,
        client=exchange.client,
        field=field,
        query=query,
        truncate=bool(data.truncate),
        dimensions=dimensions,
        traceparent=exchange.traceparent,
    )
    encoding = await service.begin(wanted)
    exchange.encoding = encoding
    return encoding, await while_connected(request, encoding.values())


async def _written(values: Sequence[bytes], *, in_base64: bool) -> list[str]:
    """The vectors as JSON, in pieces: others' tokens go out in between."""
    written = []
    for at, value in enumerate(values):
        if at and at % _AT_ONCE == 0:
            await asyncio.sleep(0)
        text = base64.b64encode(value).decode() if in_base64 else array("f", value).tolist()
        written.append(cast(str, msgspec.Raw(_encoder.encode(text))))
    return written


def _usage(encoding: Encoding) -> EncodingUsage:
    tokens = encoding.prompt_tokens
    return EncodingUsage(prompt_tokens=tokens, total_tokens=tokens)


def _router(prefix: str, *handlers: HTTPRouteHandler) -> Router:
    return Router(
        prefix, route_handlers=list(handlers), guards=[nothing_unknown], tags=["Encoders"]
    )


routers = [
    *(_router(prefix, create_embedding, rerank) for prefix in ("/v1", "/api/v1", "/api/v0")),
    _router("/v2", rerank),  # where Cohere's own client asks
]

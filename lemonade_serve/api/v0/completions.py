"""Text in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from litestar import Request, Response, post
from litestar.response import Stream

from lemonade_serve.api import answer
from lemonade_serve.api.access import exchange_of
from lemonade_serve.api.answer import Part
from lemonade_serve.api.body import Body
from lemonade_serve.api.deps import Bounds, Service
from lemonade_serve.api.errors import Shown
from lemonade_serve.api.keep_alive import seconds
from lemonade_serve.api.schema.told import GENERATION, told
from lemonade_serve.api.v0 import schemas
from lemonade_serve.domain.completion import (
    CompletionRequest,
    Generation,
    Placement,
    TextPrompt,
)

_STREAM = """\
data: {"text":" to"}

data: {"text":"","model":"SmolLM2-135M-Instruct","finish_reason":"length","usage":{...}}

data: [DONE]

"""


_BODY = Body(
    schemas.CompletionBody,
    {
        "specification": {
            "model": "SmolLM2-135M-Instruct",
            "prompt": "the meaning of life is",
        },
        "streamed": {
            "model": "SmolLM2-135M-Instruct",
            "prompt": "the meaning of life is",
            "stream": True,
            "max_length": 32,
            "temperature": 0.2,
            "stop": ["\n"],
            "keep_alive": "10m",
        },
    },
)


class SpecWriter:
    """`data: {"text": …}`, a last event with finish_reason and usage, `data: [DONE]`."""

    def whole(self, generation: Generation, sequences: Sequence[Part]) -> schemas.TextCompletion:
        (only,) = sequences
        return _completion(generation, only)

    def begin(self, generation: Generation) -> bytes:
        return b""

    def part(self, generation: Generation, part: Part) -> bytes:
        if part.reason:
            return answer.event(_completion(generation, part))
        return answer.event(schemas.TextPiece(text=part.text))

    def end(self, generation: Generation) -> bytes:
        return answer.DONE

    def error(self, shown: Shown) -> bytes:
        return answer.event(shown.spec_body())


@post(
    "/completions",
    status_code=200,
    operation_id="complete",
    opt=told(GENERATION, body=_BODY, stream=_STREAM),
)
async def complete(
    request: Request[Any, Any, Any],
    service: Service,
    bounds: Bounds,
) -> Response[schemas.TextCompletion] | Stream:
    """Continue a prompt, with the model that is named or the one used last."""
    data = await _BODY.read(request)
    exchange = exchange_of(request.scope)
    wanted = CompletionRequest(
        prompt=TextPrompt(data.prompt),
        options=data,
        placement=_placement(data),
        arrived=exchange.arrived,
        traceparent=exchange.traceparent,
        client=exchange.client,
        endpoint="v0_completions",
        streaming=data.stream,
    )
    return await answer.give(request, service, wanted, SpecWriter(), bounds)


def _placement(data: schemas.CompletionBody) -> Placement:
    return Placement(
        model=data.model,
        device=data.device,
        dtype=data.dtype,
        cache_dir=data.cache_dir,
        keep_alive=seconds(data.keep_alive),
    )


def _completion(generation: Generation, part: Part) -> schemas.TextCompletion:
    return schemas.TextCompletion(
        text=part.text,
        model=generation.model,
        finish_reason=generation.reason,
        usage=schemas.TextUsage(
            prompt_tokens=generation.prompt_tokens,
            completion_tokens=generation.completion_tokens,
            total_tokens=generation.total_tokens,
        ),
    )

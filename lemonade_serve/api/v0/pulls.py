"""Models from the hub."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from litestar import Request, Response, post
from litestar.response import Stream

from lemonade_serve.api import answer
from lemonade_serve.api.access import exchange_of
from lemonade_serve.api.answer import STREAM_HEADERS, StreamBounds
from lemonade_serve.api.body import Body
from lemonade_serve.api.connection import while_connected
from lemonade_serve.api.deps import Bounds, Pulls
from lemonade_serve.api.errors import report, show
from lemonade_serve.api.schema.told import PULL, told
from lemonade_serve.api.v0 import schemas
from lemonade_serve.domain.fetcher import Pulled
from lemonade_serve.domain.orders import Order, order
from lemonade_serve.domain.pulls import Puller

_REPOSITORY = "microsoft/Phi-4-mini-instruct-onnx"
_BODY = Body(
    schemas.PullBody,
    {
        "by name": {"model": _REPOSITORY},
        "exactly": {
            "model": f"{_REPOSITORY}@main",
            "include": ["cpu_and_mobile/*"],
            "dtype": "int4",
            "name": "phi",
            "stream": True,
        },
    },
)
_STREAM = """\
data: {"status":"pulling","stage":"downloading","fraction":0.42}

data: {"status":"success","message":"Model pulled successfully: ...","model":"phi",...}

data: [DONE]

"""


@post("/pull", status_code=200, operation_id="pull", opt=told(PULL, body=_BODY, stream=_STREAM))
async def pull(
    request: Request[Any, Any, Any], puller: Pulls, bounds: Bounds
) -> Response[schemas.PullDone] | Stream:
    """Get a model from the hub; who asks for the same one at once shares the work. It ends when
    everybody who asked has left, and goes on where it was the next time."""
    data = await _BODY.read(request)
    wanted = order(data.model, include=data.include, dtype=data.dtype, name=data.name)
    pulling = _Pulling(puller, wanted)
    try:
        if not data.stream:
            return Response(_done(await while_connected(request, pulling.result())))
        await while_connected(request, pulling.settled(bounds.status_hold_s))
    except BaseException:
        pulling.cancel()
        raise
    events = _events(request, pulling, bounds)
    return Stream(events, media_type="text/event-stream", headers=STREAM_HEADERS)


class _Pulling:
    """One caller's part in a pull."""

    def __init__(self, puller: Puller, wanted: Order) -> None:
        self.told: schemas.PullProgress | None = None
        """What has not been said yet."""
        self._moved = asyncio.Event()
        self._task = asyncio.create_task(puller.pull(wanted, self._progress), name="pulling")
        self._task.add_done_callback(lambda _: self._moved.set())

    @property
    def done(self) -> bool:
        return self._task.done()

    async def result(self) -> Pulled:
        return await asyncio.shield(self._task)

    async def settled(self, hold_s: float) -> None:
        """Wait so long for what is wrong with it from the start, and raise that."""
        await asyncio.wait({self._task}, timeout=hold_s)
        if self._task.done():
            self._task.result()

    async def moved(self, timeout_s: float) -> bool:
        """Whether something happened in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._moved.wait()
        except TimeoutError:
            return False
        self._moved.clear()
        return True

    def cancel(self) -> None:
        self._task.cancel()

    def _progress(self, stage: str, fraction: float) -> None:
        self.told = schemas.PullProgress(stage=stage, fraction=round(fraction, 4))
        self._moved.set()


async def _events(
    request: Request[Any, Any, Any], pulling: _Pulling, bounds: StreamBounds
) -> AsyncGenerator[bytes]:
    try:
        while not pulling.done:
            if told := pulling.told:
                pulling.told = None
                yield answer.event(told)
            elif not await pulling.moved(bounds.keepalive_s):
                yield b": ping\n\n"
        yield answer.event(_done(await pulling.result())) + answer.DONE
    except Exception as error:
        shown = show(error)
        exchange_of(request.scope).error = shown.code
        report("pull_failed", error)
        yield answer.event(shown.spec_body())
    finally:
        pulling.cancel()


def _done(pulled: Pulled) -> schemas.PullDone:
    info = pulled.info
    how = "Model pulled successfully" if pulled.new else "Model was here already"
    return schemas.PullDone(
        message=f"{how}: {info.name} in {info.dtype}",
        model=info.name,
        dtype=info.dtype,
        commit=pulled.commit,
        new=pulled.new,
    )

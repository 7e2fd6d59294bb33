"""For whoever watches the process: is it alive, does it take requests, how does it do."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from litestar import MediaType, Request, Response, get

from lemonade_serve.api.access import METRICS
from lemonade_serve.api.deps import Ready, Scrape
from lemonade_serve.api.schema.told import NOTHING, READY, SCRAPE, told


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    status: Literal["ok"] = "ok"


@get("/livez", operation_id="livez", opt=told(NOTHING), tags=["System"], sync_to_thread=False)
def livez() -> Probe:
    """The process answers."""
    return Probe()


@get("/live", operation_id="live", opt=told(NOTHING), tags=["System"], sync_to_thread=False)
def live() -> Probe:
    """As `/livez`."""
    return Probe()


@get("/readyz", operation_id="readyz", opt=told(READY), tags=["System"], sync_to_thread=False)
def readyz(readiness: Ready) -> Probe:
    """New requests are wanted; 503, with the reason, while the models of the start load, while
    draining and with no device left."""
    readiness.check()
    return Probe()


@get(
    METRICS,
    operation_id="metrics",
    media_type=MediaType.TEXT,
    opt=told(SCRAPE),
    tags=["System"],
    sync_to_thread=False,
)
def metrics(request: Request[Any, Any, Any], scrape: Scrape) -> Response[bytes]:
    """Prometheus' text format, or OpenMetrics for those who accept it. Answers while draining."""
    content, media_type = scrape(request.headers.get("accept", ""))
    return Response(content, media_type=media_type)


handlers = [livez, live, readyz, metrics]

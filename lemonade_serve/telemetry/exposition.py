"""`/metrics`, as Prometheus reads it."""

from __future__ import annotations

from itertools import chain
from typing import Any

from litestar import MediaType, Request, Response, get
from litestar.handlers import HTTPRouteHandler
from prometheus_client.exposition import choose_encoder

from lemonade_serve.telemetry.metrics import MetricsObserver

_OPENMETRICS = "application/openmetrics-text"


def metrics_route(metrics: MetricsObserver) -> HTTPRouteHandler:
    """GET /metrics. It reads and changes nothing, and answers whatever else goes on."""

    @get(
        "/metrics",
        operation_id="metrics",
        summary="Metrics for Prometheus",
        description="Text format 0.0.4, or OpenMetrics 1.0.0 for whoever accepts that.",
        media_type=MediaType.TEXT,
        sync_to_thread=False,
    )
    def scrape(request: Request[Any, Any, Any]) -> Response[bytes]:
        text, content_type = expose(metrics, request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": content_type})

    return scrape


def expose(metrics: MetricsObserver, accept: str) -> tuple[bytes, str]:
    """All families, and their content type."""
    openmetrics = _OPENMETRICS in accept
    # Not the header itself: the library fails on a version in it that is no number.
    encode, content_type = choose_encoder(_OPENMETRICS if openmetrics else "")
    families = metrics.families.all()
    counted = chain.from_iterable(family.write(openmetrics=openmetrics) for family in families)
    return "".join(counted).encode() + encode(metrics.registry), content_type

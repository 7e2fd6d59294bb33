"""The metrics, as Prometheus reads them."""

from __future__ import annotations

from itertools import chain

from prometheus_client.exposition import choose_encoder

from lemonade_serve.telemetry.metrics import MetricsObserver

_OPENMETRICS = "application/openmetrics-text"


def expose(metrics: MetricsObserver, accept: str) -> tuple[bytes, str]:
    """All families, and their content type."""
    openmetrics = _OPENMETRICS in accept
    # Not the header itself: the library fails on a version in it that is no number.
    encode, content_type = choose_encoder(_OPENMETRICS if openmetrics else "")
    families = metrics.families.all()
    counted = chain.from_iterable(family.write(openmetrics=openmetrics) for family in families)
    return "".join(counted).encode() + encode(metrics.registry), content_type

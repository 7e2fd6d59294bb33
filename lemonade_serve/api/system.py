"""For whoever watches the process: is it alive, does it take requests."""

from __future__ import annotations

from litestar import get

from lemonade_serve import errors
from lemonade_serve.api.deps import Gate


@get(["/livez", "/live"], operation_id="livez", sync_to_thread=False)
def livez() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@get("/readyz", operation_id="readyz", sync_to_thread=False)
def readyz(access: Gate) -> dict[str, str]:
    """New requests are taken; 503 while draining."""
    if access.draining:
        raise errors.Draining
    return {"status": "ok"}

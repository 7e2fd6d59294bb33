"""What handlers may ask for by name; `app.py` provides it."""

from __future__ import annotations

from litestar.di import NamedDependency

from lemonade_serve.api.access import Access
from lemonade_serve.api.answer import StreamBounds
from lemonade_serve.domain.completion import CompletionService

Service = NamedDependency[CompletionService]
Bounds = NamedDependency[StreamBounds]
Gate = NamedDependency[Access]

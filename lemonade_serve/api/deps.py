"""What handlers may ask for by name; `app.py` provides it."""

from __future__ import annotations

from collections.abc import Callable

from litestar.di import NamedDependency

from lemonade_serve.api.answer import StreamBounds
from lemonade_serve.domain.aliases import Aliases
from lemonade_serve.domain.catalogue import Catalogue
from lemonade_serve.domain.clients import ClientParams
from lemonade_serve.domain.completion import CompletionService
from lemonade_serve.domain.conversations import Conversations
from lemonade_serve.domain.encoding import EncodingService
from lemonade_serve.domain.events import RequestFinished
from lemonade_serve.domain.placement import Locator
from lemonade_serve.domain.pulls import Puller
from lemonade_serve.domain.readiness import Readiness
from lemonade_serve.domain.residents import Residents

# A Protocol would not do here: Litestar checks a dependency with isinstance.
Service = NamedDependency[CompletionService]
Encoders = NamedDependency[EncodingService]
Resident = NamedDependency[Residents]
Finder = NamedDependency[Locator]
Bounds = NamedDependency[StreamBounds]
Ready = NamedDependency[Readiness]
OnDisk = NamedDependency[Catalogue]
Names = NamedDependency[Aliases]
Pulls = NamedDependency[Puller]
Params = NamedDependency[ClientParams]
Kept = NamedDependency[Conversations]
LastRequest = NamedDependency[Callable[[str | None], RequestFinished | None]]
"""The request that finished last, of one model or of all."""
Scrape = NamedDependency[Callable[[str], tuple[bytes, str]]]
"""The metrics as the `Accept` header wants them, and their content type."""

"""HTTP: parse, answer, nothing else.

Litestar takes its class for pages of a listing from advanced-alchemy where that is installed, and
so imports all of it, NumPy and SQLAlchemy's dialects too. No route here has pages, so Litestar is
imported as if it were not installed: a daemon starts sooner and is smaller.
"""

import sys

if not {"litestar", "advanced_alchemy"} & set(sys.modules):
    sys.modules["advanced_alchemy"] = None  # type: ignore[assignment]
    import litestar  # noqa: F401

    del sys.modules["advanced_alchemy"]

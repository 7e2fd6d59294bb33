"""The families that are counted, and their buckets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lemonade_serve.telemetry.series import MODEL, Counter, Family, Histogram

NO_DEVICE = "none"
"""The device of a request that was turned away before it had one."""

_WHERE = (MODEL, "device")

# In seconds, but for the last two.
_FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5),
    *(0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640),
)
_TOKEN = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1),
    *(0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5),
)
_REQUEST = (
    *(0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5),
    *(5, 10, 15, 20, 30, 60, 120, 240, 480, 960),
)
_LOAD = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
_IDLE = (0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
_SEQUENCES = (1, 2, 4, 8, 16, 32, 64)
_OF_ALL = "of all requests, also of those that did not come to their end."


class Families:
    """What is counted. A known model's children start at 0, so that `rate()` sees the first event.

    How a request went is observed as far as it came; what it was as a whole (its duration, its
    decoding, its lengths) only when it came to its end.
    """

    def __init__(self) -> None:
        self.requests = Counter(
            "requests_total",
            f"Requests that ended; device {NO_DEVICE}: before they had one.",
            (*_WHERE, "endpoint", "outcome"),
        )
        self.rejected = Counter(
            "requests_rejected_total", "Requests that may be sent again later.", ("reason",)
        )
        self.prompt_tokens = Counter("prompt_tokens_total", f"Prompt tokens {_OF_ALL}", _WHERE)
        self.cached_prompt_tokens = Counter(
            "cached_prompt_tokens_total",
            "Those of prompt_tokens_total that the engine did not have to compute.",
            _WHERE,
        )
        self.generated_tokens = Counter(
            "generated_tokens_total", f"Generated tokens {_OF_ALL}", _WHERE
        )
        self.duration = Histogram(
            "request_duration_seconds",
            "From a request's arrival to its end.",
            (*_WHERE, "endpoint"),
            _REQUEST,
        )
        self.first_token = Histogram(
            "time_to_first_token_seconds",
            "From a request's arrival to its first text; a load in between counts.",
            _WHERE,
            _FIRST_TOKEN,
        )
        self.per_token = Histogram(
            "time_per_output_token_seconds",
            "The mean time between two tokens of a request.",
            _WHERE,
            _TOKEN,
        )
        self.token_gaps = Histogram(
            "inter_token_latency_seconds", "The time between two tokens.", _WHERE, _TOKEN
        )
        self.queue = Histogram(
            "request_queue_duration_seconds",
            "From a request's arrival to the start of its prefill.",
            _WHERE,
            _REQUEST,
        )
        self.prefill = Histogram(
            "request_prefill_duration_seconds",
            "From the start of a request's prefill to its first token.",
            _WHERE,
            _REQUEST,
        )
        self.decode = Histogram(
            "request_decode_duration_seconds",
            "From a request's first token to its last.",
            _WHERE,
            _REQUEST,
        )
        self.prompt_length = Histogram(
            "request_prompt_tokens", "Tokens of a request's prompt.", _WHERE, _TOKENS
        )
        self.generated_length = Histogram(
            "request_generated_tokens", "Tokens generated for a request.", _WHERE, _TOKENS
        )
        self.batch = Histogram(
            "batch_size",
            "Sequences that one step of the engine gave a token, or inputs that it encoded.",
            _WHERE,
            _SEQUENCES,
        )
        self.loads = Counter("model_loads_total", "Loads that ended.", (*_WHERE, "outcome"))
        self.load_duration = Histogram(
            "model_load_duration_seconds", "How long a good load took.", _WHERE, _LOAD
        )
        self.evictions = Counter(
            "model_evictions_total", "Models that left, by why.", (*_WHERE, "reason")
        )
        self.idle = Histogram(
            "model_idle_at_eviction_seconds",
            "Since its last use, when the pool itself let a model go (lru, ttl, pressure).",
            ("device",),
            _IDLE,
        )
        self.hits = Counter(
            "model_pool_hits_total", "Requests that found their model there.", _WHERE
        )
        self.misses = Counter(
            "model_pool_misses_total", "Requests that did not find their model there.", _WHERE
        )
        self.restarts = Counter(
            "worker_restarts_total", "Loads of what had left by a crash.", ("device", "reason")
        )

    def all(self) -> Iterator[Family[Any]]:
        yield from vars(self).values()

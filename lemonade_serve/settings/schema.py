"""Every setting, its unit and its bounds.

Every bound that an operator may have to move is a field here, with its unit in the name (`_s`
seconds, `_bytes`, `_tokens`); `environment.py` says what it is called there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from lemonade_serve.errors import SettingsError
from lemonade_serve.settings.parameters import Options

Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
Bytes = (
    Annotated[int, Meta(ge=1)] | Annotated[str, Meta(pattern=r"^(auto|[1-9][0-9]* ?([KMGT]iB)?)$")]
)
"""A number of bytes, `12GiB` and the like, or `auto`."""
Secret = Annotated[str, Meta(extra={"secret": "all"})]
"""Never shown: `lemonade-serve config` prints stars."""
SecretUrl = Annotated[str, Meta(extra={"secret": "password"})]
"""Shown without its password."""
HeaderName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
Header = Annotated[Secret, Meta(pattern=r"^[\x20-\x7e]+\Z")]
CLIENT_NAME = r"^[A-Za-z0-9._:-]{1,64}$"
ClientName = Annotated[str, Meta(pattern=CLIENT_NAME)]


class Server(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where and how the daemon answers."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 1234
    uds: str | None = None
    """A Unix socket to listen on, instead of host and port."""
    allow_keyless: bool = False
    """Answer on other addresses than loopback although no API key is set."""
    open_metrics: bool = False
    """Answer `/metrics` without an API key."""
    max_connections: Count = 1024
    """Connections held open at the same time; further ones wait to be accepted."""
    max_body_bytes: Count = 16 * 1024 * 1024
    status_hold_s: Seconds = 1.0
    """A stream's HTTP status waits so long for the first token, so that errors can be honest."""
    keepalive_s: Annotated[float, Meta(gt=0, le=10)] = 5.0
    """The longest silence on a stream before a comment is sent."""
    drain_timeout_s: Seconds = 7.0
    """After SIGTERM, requests that still run get so long to finish. With `worker.stop_timeout_s`
    and a second, the process is gone: before Docker's ten seconds, by default."""


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device's room for models."""

    execution_provider: str | None = None
    """What ONNX Runtime runs it with; none: the device is not offered. `cpu` may stand in."""
    library: str | None = None
    """The shared library of that execution provider; none: the one of the installed package
    `onnxruntime-ep-NAME`, or what ONNX Runtime has built in."""
    provider_options: dict[str, str] = {}
    """What else the execution provider is told."""
    hardware: Annotated[str, Meta(pattern="^(npu|gpu|cpu)$")] | None = None
    """The kind of hardware that the execution provider must find; none: the device's own."""
    max_models: Count = 4
    memory_budget: Bytes = "auto"
    """For all its models; auto: its even share of four fifths of what this machine has."""


class Devices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where models run."""

    npu: Device = Device()
    igpu: Device = Device()
    cpu: Device = Device(execution_provider="cpu")
    order: tuple[Annotated[str, Meta(pattern="^(npu|igpu|cpu)$")], ...] = ("npu", "igpu", "cpu")
    """Which device a request gets that names none, the preferred one first."""
    probe_timeout_s: Seconds = 20.0
    """At start, an execution provider that takes longer to find its device is given up."""


class Pool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which models are resident."""

    preload: tuple[str, ...] = ()
    """Models to load at start."""
    min_residency_s: Annotated[float, Meta(ge=0)] = 2.0
    """A loaded model is not evicted for another one before this."""
    max_wait_s: Annotated[float, Meta(ge=0)] = 5.0
    """A request waits so long for a model to become idle; then a busy one takes no new requests."""
    queue_timeout_s: Seconds = 300.0
    """A request that waits longer for its turn (room, the load, a sequence slot) is refused with
    503."""
    idle_ttl_s: Annotated[float, Meta(ge=0)] = 0.0
    """A model that nobody used for so long is unloaded; 0: never."""
    load_cooldown_s: Annotated[float, Meta(ge=0)] = 10.0
    """A model that failed to load evicts no other one again before this."""
    unload_timeout_s: Seconds = 600.0
    """An unload waits so long for running requests, then cuts them."""


class Worker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The process that serves one checkpoint."""

    threads: Annotated[int, Meta(ge=0)] = 0
    """Threads that compute; 0 means the CPUs that this process may use. As many models compute at
    once as have CPUs for so many threads each; more of them take turns, a step at a time."""
    sequence_slots: Count = 16
    """Sequences of a model that advance at the same time."""
    kv_cache_tokens: Annotated[int, Meta(ge=64)] = 16384
    """Tokens, prompts included, that all sequences of a model may have in its KV cache together, if
    their contexts are so long: memory that its device is charged for. A request waits until what it
    may come to need is free; a prompt that can never fit is refused with 400."""
    max_queue: Annotated[int, Meta(ge=0)] = 64
    """Requests of a model that may wait for a sequence slot; one more is refused with 429."""
    max_client_queue: Annotated[int, Meta(ge=0)] = 32
    """As `max_queue`, for the requests of one client."""
    client_weights: dict[ClientName, Annotated[float, Meta(gt=0, le=1000)]] = {}
    """Who waits for the same model takes turns by client; a client of weight 2 has two turns where
    others, of weight 1, have one."""
    prefill_chunk_tokens: Annotated[int, Meta(ge=16)] = 128
    """A prompt is read in pieces of so many tokens; while others stream, in pieces half as long,
    and they advance in between."""
    encode_batch_tokens: Annotated[int, Meta(ge=16)] = 512
    """An embedding model or a reranker reads inputs of so many tokens, padding included, at once;
    other models wait for their turn at the cores meanwhile."""
    encode_input_tokens: Annotated[int, Meta(ge=16)] = 2048
    """An input of theirs has at most so many tokens, whatever the model allows: memory that its
    device is charged for grows with the square of it."""
    engine: Annotated[str, Meta(pattern="^(auto|batched|onnxruntime-genai)$")] = "auto"
    """What decodes; auto: `batched` where the checkpoint's graph allows it."""
    max_adapter_bytes: Count = 1024 * 1024 * 1024
    """So much of LoRA adapters' files a worker has in memory: those used least recently make room,
    a request waits until those in use do. An adapter that is larger is refused."""
    turn_timeout_s: Seconds = 30.0
    """A worker that waited so long for its turn at the cores computes beside whoever has them."""
    guidance_timeout_s: Seconds = 10.0
    """A schema or a grammar that takes longer to compile ends its worker, for nothing else would
    end it; the requests that it serves fail."""
    handshake_timeout_s: Seconds = 30.0
    load_timeout_s: Seconds = 600.0
    stop_timeout_s: Seconds = 1.5
    """A worker that was asked to stop is killed after this."""


class Responses(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Answers of the Responses API that are kept, in memory alone, for `previous_response_id`."""

    keep_s: Seconds = 3600.0
    """An answer is kept for so long, used or not."""
    max_kept: Annotated[int, Meta(ge=0)] = 1000
    """Answers kept, of all clients together; the one used least recently makes room. 0: none."""
    max_kept_bytes: Count = 64 * 1024 * 1024
    """What they may take, the conversation before each one counted in; as `max_kept`. A larger one
    is not kept."""


class Job(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Processes that do long work once, such as an import."""

    timeout_s: Seconds = 7200.0
    """A job that takes longer is ended."""


class Convert(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Checkpoints that are made of safetensors, by an environment that has the extra `export`."""

    python: str | None = None
    """That environment's interpreter; none: our own, which has it or converts nothing."""
    encoder_python: str | None = None
    """That of an environment that converts encoders (deploy/encoders/requirements.txt); none: our
    own."""
    algorithm: Annotated[str, Meta(pattern="^(default|rtn|k_quant(_last|_mixed|_linear)?)$")] = (
        "k_quant_mixed"
    )
    """How int4 is rounded, in the words of onnxruntime-genai's model builder."""
    block_size: Literal[16, 32, 64, 128, 256] = 32
    """So many weights of int4 and int8 share a scale."""
    max_perplexity_ratio: Annotated[float, Meta(ge=1)] = 1.5
    """A checkpoint whose perplexity on the shipped text is so many times that of its source is
    none."""
    min_cosine: Annotated[float, Meta(ge=0, le=1)] = 0.99
    """An embedding model whose vectors of the shipped texts are further off the source's is
    none."""
    max_score_error: Annotated[float, Meta(ge=0, le=1)] = 0.05
    """A reranker whose scores of them are further off is none."""
    memory_limit: Bytes = "auto"
    """What a conversion may take, the source's files that it maps counted in; auto: four fifths of
    what this machine has."""
    timeout_s: Seconds = 14_400.0
    """A conversion that takes longer is ended."""


class Hub(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Models that are pulled. Where the hub is, its token, its cache and its proxies are said by
    its own variables, such as HF_ENDPOINT and HF_TOKEN."""

    auto_pull: bool = False
    """Pull a model that is asked for and not here, if its name is a repository's (OWNER/NAME). The
    request waits for `pool.queue_timeout_s`, then it is refused with 503 and the pull goes on."""
    max_pulls: Count = 2
    """Pulls that run at the same time."""
    max_queue: Annotated[int, Meta(ge=0)] = 16
    """Further ones that may wait; one more is refused with 429."""
    files_at_once: Count = 4
    """Files of one pull that come at the same time."""
    min_free_bytes: Annotated[int, Meta(ge=0)] = 1024 * 1024 * 1024
    """A pull that would leave less of the disk is refused before it begins."""
    silence_timeout_s: Seconds = 30.0
    """A connection that brings nothing for so long is tried again."""
    retries: Annotated[int, Meta(ge=0)] = 8
    """So often for a file, if no byte comes in between."""
    timeout_s: Seconds = 86_400.0
    """A download that takes longer is ended; the next one goes on from there."""


class Log(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is written to standard error."""

    level: Annotated[str, Meta(pattern="^(debug|info|warning|error)$")] = "info"
    format: Annotated[str, Meta(pattern="^(auto|json|console)$")] = "auto"
    """`auto`: for people on a terminal, JSON everywhere else."""


class Tracing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Traces of requests, for an OpenTelemetry collector. They hold no prompt, no answer and no
    client."""

    endpoint: Annotated[SecretUrl, Meta(pattern="^https?://[^/]")] | None = None
    """Where spans are posted, OTLP over HTTP, such as `http://collector:4318/v1/traces`; none: no
    traces."""
    headers: dict[HeaderName, Header] = {}
    """Sent with them, such as a collector's API key."""
    headers_file: str | None = None
    """More of them: a TOML file of lines `name = "value"`."""
    sample_ratio: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """The part of the requests that is traced; a caller that sends `traceparent` decides for its
    own."""
    service_name: Annotated[str, Meta(min_length=1)] = "lemonade-serve"
    max_queue_spans: Count = 2048
    """Spans that wait to be sent; what is more drops the oldest."""
    interval_s: Seconds = 2.0
    """They are sent so often, or as soon as there are 512."""
    timeout_s: Seconds = 5.0
    """A collector that takes longer gets none of them."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    cache_dir: str = "~/.cache/lemonade"
    """Where checkpoints are."""
    cache_roots: tuple[str, ...] = ()
    """Further directories that a client's `cache_dir` may name."""
    state_dir: str = "~/.local/state/lemonade"
    """Where the daemon keeps what must survive it; one daemon a directory."""
    database_url: SecretUrl | None = None
    """A PostgreSQL database for clients' parameters, instead of SQLite in the state directory."""
    store_timeout_s: Seconds = 5.0
    """A database that takes longer is as good as none: 503."""
    max_clients: Count = 10_000
    """Clients whose parameters are kept; one more is refused with 429."""
    api_keys: dict[ClientName, Annotated[Secret, Meta(min_length=1)]] = {}
    """A key for each client, by the client's name."""
    api_keys_file: str | None = None
    """More of them: a TOML file of lines `name = "key"`."""
    default_model: str | None = None
    """Serves requests that name no model while none is resident."""
    parameters: Options = Options()
    """Generation parameters of those who say nothing else."""
    server: Server = Server()
    devices: Devices = Devices()
    pool: Pool = Pool()
    worker: Worker = Worker()
    responses: Responses = Responses()
    job: Job = Job()
    convert: Convert = Convert()
    hub: Hub = Hub()
    log: Log = Log()
    tracing: Tracing = Tracing()

    @property
    def cache_path(self) -> Path:
        return _absolute(self.cache_dir)

    @property
    def cache_root_paths(self) -> list[Path]:
        return [_absolute(root) for root in self.cache_roots]

    @property
    def api_keys_path(self) -> Path | None:
        return _absolute(self.api_keys_file) if self.api_keys_file else None

    @property
    def state_path(self) -> Path:
        return _absolute(self.state_dir)


def _absolute(path: str) -> Path:
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise SettingsError(f"{path}: {error}") from error

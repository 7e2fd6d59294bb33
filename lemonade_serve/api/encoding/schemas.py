"""The bodies of both routes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from lemonade_serve.api.keep_alive import KeepAlive

MAX_INPUTS = 2048
"""Of one request: OpenAI's own bound."""

Truncate = Annotated[
    bool, Meta(description="Cut what is longer than the model reads, rather than refuse it.")
]


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`input`: a text, token ids, or a list of such. `user` has no effect."""

    model: str | None = None
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    truncate: Truncate | None = None
    keep_alive: KeepAlive | None = None
    user: str | None = None


class Embedding(msgspec.Struct, frozen=True, kw_only=True):
    """As numbers, or as the base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EncodingUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Special tokens included."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EncodingUsage


class Document(msgspec.Struct, frozen=True, kw_only=True):
    text: str


class RerankRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`top_n`: so many results at most. `return_documents`: with the documents' texts."""

    model: str | None = None
    query: Annotated[str, Meta(min_length=1)]
    documents: Annotated[list[str | Document], Meta(min_length=1, max_length=MAX_INPUTS)]
    top_n: Annotated[int, Meta(ge=1)] | None = None
    return_documents: bool | None = None
    truncate: Truncate | None = None
    keep_alive: KeepAlive | None = None
    user: str | None = None


class RerankResult(msgspec.Struct, frozen=True, kw_only=True):
    """`index` is the document's place in the request; `relevance_score` is 0 to 1."""

    index: int
    relevance_score: float
    document: Document | msgspec.UnsetType = msgspec.UNSET


class Reranked(msgspec.Struct, frozen=True, kw_only=True):
    """The best document first."""

    id: str
    object: Literal["list"] = "list"
    model: str
    results: list[RerankResult]
    usage: EncodingUsage

"""Generation parameters, and their bounds."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(gt=0, le=1)]
TopK = Annotated[int, Meta(ge=0, le=1000)]
MinLength = Annotated[int, Meta(ge=0)]
MaxLength = Annotated[int, Meta(ge=1)]
MinP = Annotated[float, Meta(ge=0, le=1)]
RepetitionPenalty = Annotated[float, Meta(gt=0, le=2)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
StopString = Annotated[str, Meta(min_length=1, max_length=256)]
Stop = StopString | Annotated[list[StopString], Meta(min_length=1, max_length=16)]
TokenId = Annotated[str, Meta(pattern="^(0|[1-9][0-9]{0,8})$")]
"""As a key of a JSON object, which is always a string."""
LogitBias = dict[TokenId, Annotated[float, Meta(ge=-100, le=100)]]
Sequences = Annotated[int, Meta(ge=1, le=128)]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """One layer's say on the parameters; a field that is None leaves it to the layer before."""

    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    min_length: MinLength | None = None
    max_length: MaxLength | None = None
    do_sample: bool | None = None
    repetition_penalty: RepetitionPenalty | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    ignore_eos: bool | None = None


class RequestOptions(Options, frozen=True, kw_only=True):
    """The last layer: what a request says, and with it what no other layer may. `logprobs`: how
    many of the most likely tokens come with each one drawn; None: not even its own."""

    logit_bias: LogitBias | None = None
    logprobs: int | None = None

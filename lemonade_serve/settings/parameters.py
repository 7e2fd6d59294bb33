"""Generation parameters that one layer may set, and their bounds."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(gt=0, le=1)]
TopK = Annotated[int, Meta(ge=0, le=1000)]
MinLength = Annotated[int, Meta(ge=0)]
MaxLength = Annotated[int, Meta(ge=1)]
RepetitionPenalty = Annotated[float, Meta(gt=0, le=2)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
StopString = Annotated[str, Meta(min_length=1, max_length=256)]
Stop = StopString | Annotated[list[StopString], Meta(min_length=1, max_length=16)]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """One layer's say on the parameters; a field that is None leaves it to the layer before."""

    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_length: MinLength | None = None
    max_length: MaxLength | None = None
    do_sample: bool | None = None
    repetition_penalty: RepetitionPenalty | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    ignore_eos: bool | None = None

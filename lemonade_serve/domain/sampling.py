"""Generation parameters: their bounds, and which layer decides."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from lemonade_serve.errors import InvalidRequest
from lemonade_serve.protocol.messages import ResolvedParams

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


def resolve(*layers: Options) -> ResolvedParams:
    """The parameters in force: the specification's defaults under `layers`; the last one wins.

    Raises InvalidRequest when the layers together contradict each other.
    """
    params = ResolvedParams()
    for layer in layers:
        said = {name: getattr(layer, name) for name in Options.__struct_fields__}
        said = {name: value for name, value in said.items() if value is not None}
        if isinstance(stop := said.get("stop"), list | str):
            said["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
        params = msgspec.structs.replace(params, **said)
    if params.min_length > params.max_length:
        raise InvalidRequest(
            f"min_length ({params.min_length}) is over max_length ({params.max_length})",
            param="min_length",
        )
    return params

"""Generation parameters: which layer decides."""

from __future__ import annotations

import msgspec

from lemonade_serve.errors import InvalidRequest
from lemonade_serve.protocol.messages import ResolvedParams
from lemonade_serve.settings.parameters import Options, RequestOptions

__all__ = ["Options", "RequestOptions", "resolve"]


def resolve(*layers: Options) -> ResolvedParams:
    """The parameters in force: the specification's defaults under `layers`; the last one wins.

    Raises InvalidRequest when the layers together contradict each other.
    """
    params = ResolvedParams()
    for layer in layers:
        said = {name: getattr(layer, name, None) for name in RequestOptions.__struct_fields__}
        said = {name: value for name, value in said.items() if value is not None}
        if isinstance(stop := said.get("stop"), list | str):
            said["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
        if isinstance(bias := said.get("logit_bias"), dict):
            said["logit_bias"] = tuple((int(token), value) for token, value in bias.items())
        params = msgspec.structs.replace(params, **said)
    if params.min_length > params.max_length:
        raise InvalidRequest(
            f"min_length ({params.min_length}) is over max_length ({params.max_length})",
            param="min_length",
        )
    return params

"""The Lemonade specification, as docs/api.md settles it."""

from __future__ import annotations

from litestar import Router

from lemonade_serve.api.query import nothing_unknown
from lemonade_serve.api.v0.catalogue import (
    list_aliases,
    remove_alias,
    remove_checkpoint,
    set_alias,
)
from lemonade_serve.api.v0.completions import complete
from lemonade_serve.api.v0.params import forget_params, set_params, show_params
from lemonade_serve.api.v0.pulls import pull
from lemonade_serve.api.v0.reports import (
    health,
    list_checkpoints,
    list_checkpoints_by_body,
    stats,
)
from lemonade_serve.api.v0.residency import (
    load,
    load_by_query,
    pin,
    unload,
    unload_by_query,
    unpin,
)
from lemonade_serve.api.verbs import with_all_verbs

router = with_all_verbs(
    Router(
        "/api/v0",
        route_handlers=[
            complete,
            load,
            load_by_query,
            unload,
            unload_by_query,
            pin,
            unpin,
            set_params,
            show_params,
            forget_params,
            health,
            stats,
            list_checkpoints,
            list_checkpoints_by_body,
            remove_checkpoint,
            list_aliases,
            set_alias,
            remove_alias,
            pull,
        ],
        guards=[nothing_unknown],
        tags=["Lemonade"],
    )
)

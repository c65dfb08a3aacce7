"""The page that explains a sweep.

FastAPI and anyio are imported where they are first used, so that reading this file costs little.
"""

import json
from typing import TYPE_CHECKING, Any

from recallfront.dashboards.computed import Computed
from recallfront.dashboards.curves import chosen_trials, contexts_figure, learning_figure
from recallfront.dashboards.reading import explorer_of, now, own_address
from recallfront.dashboards.rendering import page
from recallfront.dashboards.timeline import device_seconds, timeline_figure
from recallfront.dashboards.understanding import (
    effects_figure,
    parallel_figure,
    slices_figure,
    state_figure,
)
from recallfront.platform.front.effects import MOST_FOR_FANOVA, Effect, effects
from recallfront.platform.front.front import Front
from recallfront.platform.metrics import title_of_objective
from recallfront.platform.search.forecast import RECALL
from recallfront.platform.tracking.curves import read_curves

if TYPE_CHECKING:
    from anyio import CapacityLimiter
    from fastapi import APIRouter

_effects = Computed[list[Effect]](16)  # of a metric of a sweep as it was at some moment


def add_understand_page(router: "APIRouter", prefix: str, limiter: "CapacityLimiter") -> None:
    """Add the page to a router; it is made in one of the limiter's threads."""
    from anyio.to_thread import run_sync
    from fastapi import Request
    from fastapi.responses import Response

    @router.get("/sweeps/{run_id}/understand")
    async def understand(run_id: str, request: Request) -> Response:
        def work() -> Response:
            return page(request, "understand.html", prefix, **_shown(own_address(request), run_id))

        return await run_sync(work, limiter=limiter)


def _shown(uri: str, run_id: str) -> dict[str, Any]:
    view = explorer_of(uri, run_id, 0.0).view
    front = view.front
    found = {o.reading: effects_of(front, o.reading) for o in front.objectives}
    curves = read_curves(uri, [trial.run_id for trial in chosen_trials(view)], [RECALL])
    drawn = {
        "effects": effects_figure([effect for own in found.values() for effect in own], front),
        "learning": learning_figure(view, curves),
        "slices": slices_figure(front),
        "state": state_figure(front),
        "contexts": contexts_figure(front),
        "parallel": parallel_figure(front),
        "timeline": timeline_figure(view, now()),
    }
    titles = {o.reading: title_of_objective(o) for o in front.objectives}
    important = [
        (effect.architecture, effect.knob, titles[name], effect.importance)
        for name, own in found.items()
        for effect in own
        if effect.importance is not None
    ]
    untold = [
        (e.architecture, e.knob, ", ".join(e.untold)) for own in found.values() for e in own if e.untold
    ]
    return {
        "view": view,
        "untold": list(dict.fromkeys(untold)),
        "figures": {
            name: json.loads(figure.to_json()) for name, figure in drawn.items() if figure is not None
        },
        "important": sorted(important, key=lambda row: (row[0], row[2], -row[3])),
        "most_for_fanova": MOST_FOR_FANOVA,
        "spent": device_seconds(view),
    }


def effects_of(front: Front, metric: str) -> list[Effect]:
    """What each knob does to a metric; it takes seconds for many configurations, and is computed once."""
    points = tuple((c.architecture, repr(c.knobs), c.metrics.get(metric)) for c in front.candidates)
    return _effects.of((metric, points), lambda: effects(front.candidates, metric))

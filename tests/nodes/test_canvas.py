"""Every canvas of every layer, in every pool and on every broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.nodes.app import LIMIT, WINDOW
from tests.nodes.matrix import CANVASES, LAYERS

if TYPE_CHECKING:
    from tests.nodes.matrix import Canvas, Matrix, Outcome


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("canvas", CANVASES)
def test_canvas(matrix: Matrix, canvas: str, layer: str) -> None:
    """Its result, how often it asked the API and when, who its callers were for Celery, and its jobs' records."""
    meant, found = CANVASES[canvas], matrix.outcomes[f"{canvas} {layer}"]
    assert found.result == meant.result
    assert len(found.calls) == (meant.different if layer in {"memoize", "stacked"} else meant.runs)
    if layer in {"throttle", "stacked", "coroutine"}:
        kept_the_limit(found)
    if layer in {"plain", "throttle", "job"} or (layer == "coroutine" and not meant.inner):
        told_its_parents(meant, found)
    if layer in {"job", "stacked", "coroutine"}:
        left_its_records(meant, found, memoized=layer == "stacked")
    else:
        assert found.jobs == []


def kept_the_limit(found: Outcome) -> None:
    assert {call.inside for call in found.calls} == {1}
    # Never too early, counted from when it was sent: a bound that no delay on the way to the API can break.
    for number, call in enumerate(found.calls):
        assert call.at - found.sent >= number // LIMIT * WINDOW


def told_its_parents(meant: Canvas, found: Outcome) -> None:
    parents = [call.parent for call in found.calls if call.parent is not None]
    assert len(found.calls) - len(parents) == meant.heads
    assert set(parents) <= {call.task_id for call in found.calls}


def left_its_records(meant: Canvas, found: Outcome, *, memoized: bool) -> None:
    """Each with the root of the task that ran it, also where that is one of Celery's own, such as `celery.map`."""
    assert {job.status for job in found.jobs} == {"SUCCESS"}
    hits = meant.runs - meant.different if memoized else 0
    # Inside another task nobody asks for the record of a call that was found in the cache.
    assert len(found.jobs) == meant.runs - (hits if meant.inner else 0)
    assert sum(job.cached for job in found.jobs) == (0 if meant.inner else hits)
    ran = [job.root_id for job in found.jobs if not job.cached]
    if meant.inner:
        assert set(ran) <= {*found.ids}
        assert memoized or len(set(ran)) == len(found.ids)
    else:
        roots = {call.task_id: call.root for call in found.calls}
        assert {job.id: job.root_id for job in found.jobs if not job.cached} == roots
        assert {job.id for job in found.jobs} >= {*found.ids}


def test_no_message_is_left(matrix: Matrix) -> None:
    assert not any(matrix.left.values()), matrix.left

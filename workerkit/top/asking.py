"""Several questions in one round trip, each under a name of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workerkit.core.call import Call
from workerkit.core.flow import Batch, Flow

Questions = Mapping[Any, Call[Any]]
Answers = Mapping[Any, Any]


def ask(questions: Questions) -> Flow[Answers]:
    """The answers, by the names of the questions, which are all for one store."""
    answers = yield from Batch(*questions.values())
    return dict(zip(questions, answers, strict=True))

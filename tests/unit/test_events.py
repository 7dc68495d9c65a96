from __future__ import annotations

import dataclasses

import pytest

from workerkit.core import events
from workerkit.core.events import Event, Hooks, StoreDown, StoreUp


def test_every_hook_hears_everything_in_order():
    heard = []
    hooks = Hooks(lambda event: heard.append(("first", event)))
    hooks.add(lambda event: heard.append(("second", event)))
    down, up = StoreDown("guard", "no answer"), StoreUp("guard")
    hooks.emit(down)
    hooks.emit(up)
    assert heard == [("first", down), ("second", down), ("first", up), ("second", up)]


def test_a_hook_that_fails_disturbs_neither_the_caller_nor_the_others():
    heard, errors = [], []

    def broken(event):
        raise ValueError("broken hook")

    hooks = Hooks(broken, heard.append, on_error=errors.append)
    hooks.emit(StoreUp("cache"))
    assert len(heard) == 1
    assert [str(error) for error in errors] == ["broken hook"]
    Hooks(broken).emit(StoreUp("cache"))


def test_events_cannot_be_changed():
    event = StoreUp("cache")
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.store = "guard"


def test_every_event_has_a_name_of_its_own_and_no_label_that_may_hold_anything():
    found = [each for each in vars(events).values() if isinstance(each, type) and issubclass(each, Event)]
    kinds = [each for each in found if each is not Event]
    assert len({kind.name for kind in kinds}) == len(kinds) > 5
    for kind in kinds:
        assert not {field.name for field in dataclasses.fields(kind)} & {"key", "job_id", "args", "argument"}

"""Celery's settings that bite, whatever the servers are like."""

from __future__ import annotations

from collections.abc import Iterator

from workerkit.doctor.facts import Facts
from workerkit.doctor.finding import Finding, Kind

EAGER = Kind("always-eager", "warning", "Tasks run where they are sent, and no worker gets any")
PICKLE = Kind("accepts-pickle", "warning", "Whoever may write to the broker may run code in the workers")
CONFIRMS = Kind("publish-unconfirmed", "warning", "RabbitMQ need not have taken a message that was sent")
KINDS = (EAGER, PICKLE, CONFIRMS)

_PICKLES = {"pickle", "application/x-python-serialize"}


def check(facts: Facts) -> Iterator[Finding]:
    """Judge settings by themselves."""
    app = facts.app
    if app.eager:
        text = "tasks run in the process that sends them; nothing is parked"
        yield EAGER.found("task_always_eager", text, at="the app", fix="app.conf.task_always_eager = False")
    if not _PICKLES.isdisjoint(app.accepts):
        left = [each for each in app.accepts if each not in _PICKLES] or ["json"]
        text = "unpickling a message runs what is in it"
        yield PICKLE.found("accept_content", text, at="the app", fix=f"app.conf.accept_content = {left}")
    if app.broker == "amqp" and not app.confirms:
        text = "RabbitMQ is not asked whether it has taken a message, so that one may be lost on its way to a queue"
        options = '{**(app.conf.broker_transport_options or {}), "confirm_publish": True}'
        fix = f"app.conf.broker_transport_options = {options}"
        yield CONFIRMS.found("broker_transport_options", text, at="the app", fix=fix)

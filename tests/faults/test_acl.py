"""Least privilege, wrong credentials, and that a password is shown nowhere.

What the I/O floor needs of an ACL user on a server of its own namespace:

    ACL SETUSER app on >password resetkeys ~wk:* resetchannels &wk:* -@all +@read +@write +@scripting -@dangerous
        +time +select +info

`+select` only for a database other than 0, `+info` only for the check whether the guard store evicts.
"""

from __future__ import annotations

import asyncio
import copy
import pickle
import traceback

import pytest

from tests.rig import Rig, aio_outcome, charge, command, outcome
from workerkit.core.events import GuardWarning
from workerkit.errors import StoreRefused, StoreUnavailable
from workerkit.io.address import parse_address

PASSWORD = "s3cr3t/p%40ss"  # as it is in the URL
SHOWN = ("s3cr3t", "p@ss", "p%40ss")
NEEDED = ("+@read", "+@write", "+@scripting", "+time", "+select", "+info")


def user(server, *rights):
    """A fresh user with these rights; the server's URL for it, on database 1."""
    server.cli("ACL", "DELUSER", "app")
    rules = ["on", ">s3cr3t/p@ss", "~wk:*", "&wk:*", "-@all", *rights[:3], "-@dangerous", *rights[3:]]
    server.cli("ACL", "SETUSER", "app", *rules)
    return f"redis://app:{PASSWORD.replace('/', '%2F')}@127.0.0.1:{server.port}/1"


@pytest.fixture
def server(private_server):
    return private_server(tcp=True)


def everything(rig):
    """One of each: handshake with database, script by sha and by source, plain commands, the server's clock."""
    counts = [rig.runner.call(charge("wk:g:{x:y}:count")) for _ in range(2)]
    rig.runner.call(command("SET", "wk:c:{x:y}:v", "value", "PX", 10_000))
    rig.server.clock.learned = float("-inf")
    return counts, rig.runner.call(command("GET", "wk:c:{x:y}:v"))


def test_a_user_of_least_privilege_can_do_everything(server):
    rig = Rig(user(server, *NEEDED), guards=True)
    assert everything(rig) == ([1, 2], b"value")
    assert rig.events == []
    assert asyncio.run(rig.aio.call(charge("wk:g:{x:y}:count"))) == 3
    for denied in (("GET", "other"), ("KEYS", "*"), ("FLUSHALL",), ("CONFIG", "GET", "*"), ("DEBUG", "SLEEP", 0)):
        assert "ermissions" in str(outcome(lambda words=denied: rig.runner.call(command(*words)))), denied


@pytest.mark.parametrize("missing", NEEDED)
def test_each_right_is_needed_and_its_lack_named(server, missing):
    rig = Rig(user(server, *[right if right != missing else "-ping" for right in NEEDED]), guards=True)
    answer = outcome(lambda: everything(rig))
    print(f"without {missing}: {answer if isinstance(answer, Exception) else rig.events}")
    if missing == "+info":
        assert answer == ([1, 2], b"value")
        assert [type(event) for event in rig.events] == [GuardWarning]
    else:
        assert isinstance(answer, StoreRefused)
        assert "permission" in str(answer)


def everything_said(error):
    """All text that an error may leave in a log, with the local variables that some tools add."""
    lines = traceback.TracebackException.from_exception(error, capture_locals=True).format()
    return "".join(lines) + repr(error) + str(vars(error)) + repr(pickle.loads(pickle.dumps(error)))


@pytest.mark.parametrize(("role", "setting"), [("redis", "workerkit_redis_url"), ("guard", "workerkit_guard_url")])
def test_a_wrong_password_names_the_setting_and_shows_no_password(server, role, setting):
    url = user(server, *NEEDED).replace("s3cr3t", "s3cr3t-wrong")
    rig = Rig(url, role=role)
    for answer in (
        outcome(lambda: rig.runner.call(command("PING"))),
        asyncio.run(aio_outcome(rig.aio.call(command("PING")))),
    ):
        assert isinstance(answer, StoreRefused)
        assert setting in str(answer)
        assert "WRONGPASS" in everything_said(answer) or "invalid username-password" in str(answer)
        assert not [secret for secret in SHOWN if secret in everything_said(answer)]


def test_a_missing_password_names_the_setting(server):
    server.cli("CONFIG", "SET", "requirepass", "s3cr3t/p@ss")
    answer = outcome(lambda: Rig(f"redis://127.0.0.1:{server.port}").runner.call(command("PING")))
    assert isinstance(answer, StoreRefused)
    assert "workerkit_redis_url" in str(answer)


def test_no_error_shows_the_password(server):
    url = user(server, *NEEDED)
    rig = Rig(url, timeout=0.3)
    rig.warm()
    errors = [outcome(lambda: rig.runner.call(command("FLUSHALL")))]
    server.freeze()
    errors += [outcome(lambda: rig.runner.call(charge("wk:x")))]
    errors += [outcome(lambda: rig.runner.call(command("PING")))]  # in the handshake, which holds the password
    errors += [asyncio.run(aio_outcome(rig.aio.call(command("PING"))))]
    server.thaw()
    server.kill()
    rig.server.breaker.failures = 0
    errors += [outcome(lambda: rig.runner.call(command("PING"))) for _ in range(5)]
    assert all(isinstance(error, Exception) for error in errors)
    for error in errors:
        assert not [secret for secret in SHOWN if secret in everything_said(error)], everything_said(error)
    for thing in (rig.server.address, rig.pool, rig.runner, rig.server, *rig.events, copy.copy(rig.server.address)):
        assert not [secret for secret in SHOWN if secret in repr(thing)]


def test_a_database_that_does_not_exist_is_named(server):
    answer = outcome(lambda: Rig(f"redis://127.0.0.1:{server.port}/99").runner.call(command("PING")))
    assert isinstance(answer, StoreRefused)
    assert "/99" in str(answer)
    assert "DB index is out of range" in str(answer)


def test_a_host_that_does_not_exist_is_named():
    answer = outcome(lambda: Rig("redis://no-such-host.invalid/0", timeout=5.0).runner.call(command("PING")))
    assert isinstance(answer, StoreUnavailable)
    assert "no-such-host.invalid" in str(answer)


def test_the_password_is_unquoted_on_its_way_to_the_server(server):
    address = parse_address(user(server, *NEEDED), what="redis_url")
    assert address.password == "s3cr3t/p@ss"
    assert Rig(user(server, *NEEDED)).runner.call(command("GET", "wk:x")) is None

from __future__ import annotations

import hashlib

import pytest

from workerkit.core.lua import Script
from workerkit.errors import DefinitionError

SCRIPTS = "workerkit.core.scripts"


def test_an_include_is_put_in_its_place_with_its_own_includes():
    source = Script(SCRIPTS, "not_after").source
    assert "-- include" not in source
    assert source.index("redis.call('TIME')") < source.index("LATE")


def test_an_include_comes_in_once_however_often_it_is_named():
    twice = Script(SCRIPTS, "not_after", replace={"now": "-- include: now\nlocal now_us = 1\n"})
    assert twice.source.count("local now_us") == 1


def test_an_include_can_be_replaced():
    source = Script(SCRIPTS, "not_after", replace={"now": "local now_us = 5\n"}).source
    assert "local now_us = 5" in source
    assert "TIME" not in source


def test_an_include_of_the_scripts_own_package_comes_before_a_shared_one():
    own = Script("workerkit.limits", "decide", replace={"algorithm": "-- include: gcra\n"}).source
    assert "-- include" not in own
    assert "theoretical arrival time" in own  # limits/gcra.lua
    assert "redis.call('TIME')" in own  # core/scripts/now.lua


def test_the_digest_is_the_one_redis_gives():
    script = Script(SCRIPTS, "now")
    assert script.sha == hashlib.sha1(script.source.encode()).hexdigest()


def test_a_script_must_not_run_twice_if_it_says_so_itself():
    assert Script(SCRIPTS, "not_after").once is False  # it is what others include
    assert Script(SCRIPTS, "now").once is False
    assert Script("tests.faults.lua", "charge").once


def test_a_missing_script_is_named():
    with pytest.raises(DefinitionError, match=r"workerkit\.core\.scripts has no script nothing\.lua"):
        _ = Script(SCRIPTS, "nothing").source


def test_nothing_is_read_before_it_is_needed():
    assert repr(Script("no.such.package", "name")) == "<Script no.such.package:name>"

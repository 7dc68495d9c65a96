"""Settings: one line for each that is wrong, with what to write instead, and no secret in it."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
from celery import Celery

from workerkit import WorkerKit
from workerkit.api.settings import Settings, load
from workerkit.errors import DefinitionError


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"WORKERKIT_{name.upper()}", raising=False)


def test_defaults() -> None:
    found = load({"redis_url": "redis://localhost"})
    assert (found.pool_min, found.pool_max, found.namespace) == (10, 50, "wk")


def test_app_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERKIT_REDIS_URL", "redis://environment")
    monkeypatch.setenv("WORKERKIT_POOL_MAX", "20")
    app = Celery(set_as_current=False)
    app.conf.workerkit_redis_url = "redis://conf"
    kit = WorkerKit(app, namespace="shop", hooks=[])
    assert (kit.settings.redis_url, kit.settings.pool_max, kit.settings.namespace) == ("redis://conf", 20, "shop")


def test_app_may_be_configured_after_the_kit_is_made() -> None:
    app = Celery(set_as_current=False)
    kit = WorkerKit(app, hooks=[])
    app.config_from_object({"CELERY_WORKERKIT_REDIS_URL": "redis://late"}, namespace="CELERY")
    assert kit.settings.redis_url == "redis://late"


def test_missing_url_says_what_to_write_and_is_not_taken_from_the_broker() -> None:
    app = Celery(broker="redis://broker", set_as_current=False)
    with pytest.raises(DefinitionError, match=r"workerkit_redis_url is not set.*WORKERKIT_REDIS_URL"):
        WorkerKit(app, hooks=[]).ping()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"redis_url": "localhost:6379"}, ["workerkit_redis_url", "redis://"]),
        ({"redis_url": "http://host"}, ["workerkit_redis_url", "redis://"]),
        ({"redis_url": "redis://host/one"}, ["workerkit_redis_url", "not a number"]),
        ({"redis_url": "redis://host:port"}, ["workerkit_redis_url", "redis://"]),
        ({"redis_url": "redis://host?retry_on_timeout=1"}, ["retry_on_timeout", "ssl_ca_certs"]),
        ({"redis_url": "redis+sentinel://a,b/name/0"}, ["not supported yet"]),
        ({"redis_url": "redis+cluster://a,b"}, ["not supported yet"]),
        ({"redis_url": "unix://"}, ["path"]),
        ({"guard_url": "nonsense"}, ["workerkit_guard_url"]),
        ({"pool_max": 5}, ["workerkit_pool_max", "workerkit_pool_min"]),
        ({"pool_max": 0}, ["workerkit_pool_max"]),
        ({"pool_min": "many"}, ["workerkit_pool_min"]),
        ({"timeout": "-1s"}, ["workerkit_timeout"]),
        ({"timeout": "soon"}, ["workerkit_timeout", "10m"]),
        ({"namespace": "a:b"}, ["workerkit_namespace", "letters"]),
        ({"guard_eviction": "ignore"}, ["workerkit_guard_eviction", "refuse"]),
        ({"pool_maximum": 5}, ["workerkit_pool_maximum is not a setting", "workerkit_pool_max"]),
    ],
)
def test_each_wrong_setting_names_itself(given: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(DefinitionError) as caught:
        load({"redis_url": "redis://localhost", **given})
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://:hunter2@host/one", "http://u:hunter2@host", "redis://u:hunter2@host:port", "u:hunter2@host"]
)
def test_password_is_in_no_error(url: str) -> None:
    password = "".join(["hunt", "er2"])  # noqa: FLY002 - a traceback shows this very line
    with pytest.raises(DefinitionError) as caught:
        load({"redis_url": url, "secret": password, "pool_max": password})
    assert password not in "".join(traceback.format_exception(caught.value))


def test_two_wrong_settings_are_two_lines() -> None:
    with pytest.raises(DefinitionError) as caught:
        load({"redis_url": "redis://localhost", "pool_max": 0, "lease": "x"})
    assert len(str(caught.value).splitlines()) == 2


def test_an_app_needs_an_embedded_server_that_its_processes_share() -> None:
    with pytest.raises(DefinitionError, match="embedded:///some/directory"):
        WorkerKit(Celery(set_as_current=False), url="embedded://", hooks=[]).ping()


def test_rate_that_does_not_parse() -> None:
    with pytest.raises(DefinitionError, match="100/s"):
        WorkerKit(url="redis://localhost").limiter("api", "fast")

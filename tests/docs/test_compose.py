"""docker-compose.yml is documentation that runs: what it passes must be what workerkit reads."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from workerkit.api.settings import Settings, load

COMPOSE = yaml.safe_load((Path(__file__).parents[2] / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
APPS = ("worker", "beat")
PREFIX = "WORKERKIT_"


def passed(service: str) -> dict[str, str]:
    """The settings that a service gets, by field name."""
    environment = SERVICES[service]["environment"]
    return {name.removeprefix(PREFIX).lower(): text for name, text in environment.items() if name.startswith(PREFIX)}


def options(service: str) -> dict[str, str]:
    """The options of a redis-server command line."""
    return dict(re.findall(r"--(\S+) (\S+)", SERVICES[service]["command"]))


def test_has_every_part():
    assert set(SERVICES) == {"cache", "guard", "rabbitmq", "worker", "beat"}
    assert all("test" in service["healthcheck"] for service in SERVICES.values())


@pytest.mark.parametrize("service", APPS)
def test_settings_are_real_and_load(service, monkeypatch):
    settings = passed(service)
    assert set(settings) >= {"redis_url", "guard_url", "namespace"}
    assert set(settings) <= set(Settings.model_fields)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"{PREFIX}{name.upper()}", raising=False)
    for name, text in settings.items():
        assert isinstance(text, str), f"{name} needs quotes: an environment holds text"
        monkeypatch.setenv(f"{PREFIX}{name.upper()}", text)
    loaded = load({})
    assert loaded.model_fields_set == set(settings)
    assert (loaded.redis_url, loaded.guard_url) == ("redis://cache:6379/0", "redis://guard:6379/0")


def test_only_the_cache_evicts():
    cache, guard = options("cache"), options("guard")
    assert cache["maxmemory-policy"] == "allkeys-lru"
    assert cache["maxmemory"] != "0"
    assert guard["maxmemory-policy"] == "noeviction"
    assert guard["appendonly"] == "yes"
    assert any(volume.endswith(":/data") for volume in SERVICES["guard"]["volumes"])


def test_listens_on_loopback_only():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)
    assert all("network_mode" not in service for service in SERVICES.values())


@pytest.mark.parametrize("service", APPS)
def test_runs_a_module_that_exists(service):
    texts = (SERVICES[service]["command"], *SERVICES[service]["healthcheck"]["test"])
    modules = {name for text in texts for name in re.findall(r"-A (\S+)", text)}
    assert modules == {"workerkit.demo.app"}
    assert all(importlib.util.find_spec(name) for name in modules)

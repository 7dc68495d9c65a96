"""The doctor against real servers: it finds what is wrong, and the line that it prints mends it."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.doctor_rig import Responder, Shop, bulk, clock, found
from workerkit.doctor.examine import examine
from workerkit.errors import DefinitionError, StoreRefused

KEPT = ("--appendonly", "yes")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No task of another app: what other tests' modules share with every app of the process is not judged here."""
    monkeypatch.setattr("celery._state._on_app_finalizers", set())


@pytest.fixture
def server(private_server):
    return private_server(args=KEPT)


@pytest.fixture(scope="module")
def well(require):
    """A server that has nothing wrong, for what is wrong with apps."""
    from workerkit.testing.servers import start_server

    require("valkey")
    with start_server("valkey", args=KEPT) as running:
        yield running


@pytest.fixture
def url(well):
    well.cli("FLUSHALL")
    return well.unix_url


def mended(shop, id_, server=None, **options):
    """The finding of this kind, which its own line makes go; nothing else is found before or after."""
    report = shop.examine(**options)
    assert [finding.id for finding in report.findings] == [id_], report.findings
    (finding,) = report.findings
    shop.apply(finding, server)
    assert shop.ids(**options) == []
    return finding


def test_nothing_is_found_where_nothing_is_wrong(server_kind, private_server):
    server = private_server(server_kind, args=KEPT)
    shop = Shop(server.unix_url)
    shop.noted(price=2.0, charge=5.0)
    shop.lines.append("app.conf.worker_soft_shutdown_timeout = 30")
    shop.make()
    report = shop.examine()
    assert report.findings == ()
    assert not report.unreachable
    (looked,) = report.facts.servers
    assert looked.roles == ("cache", "guard", "broker", "results")
    assert {"redis_version", "maxmemory_policy", "aof_enabled", "connected_clients"} <= looked.info.keys()
    assert {"maxclients", "save"} <= looked.config.keys()
    assert abs(looked.skew) <= looked.skew_error + 0.1


def test_a_server_that_evicts_may_hold_cached_values_alone(server, private_server):
    server.cli("CONFIG", "SET", "maxmemory", "50mb")
    server.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    shop = Shop(server.unix_url)
    report = shop.examine()
    assert [finding.id for finding in report.findings] == ["guard-evicts", "broker-evicts", "results-evicted"]
    assert {finding.fix for finding in report.findings} == {"CONFIG SET maxmemory-policy noeviction"}
    assert "allkeys-lru" in report.findings[0].text
    other = private_server(args=KEPT).unix_url
    apart = Shop(server.unix_url, f"app.conf.workerkit_guard_url = {other!r}", broker="memory://")
    apart.lines.append(f"app.conf.result_backend = {other.replace('unix', 'redis+socket')!r}")
    apart.make()
    assert apart.ids() == []
    shop.apply(report.findings[0], server)
    assert shop.ids() == []


def test_the_policy_of_a_server_without_a_limit_of_memory_does_nothing(server):
    server.cli("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    assert Shop(server.unix_url).ids() == []


def test_a_server_whose_memory_is_used_up(server):
    server.cli("SET", "big", b"x" * 2_000_000)
    server.cli("CONFIG", "SET", "maxmemory", "2500000")
    finding = mended(Shop(server.unix_url), "memory-full", server)
    assert finding.severity == "error"


@pytest.mark.parametrize("id_", ["persistence-off", "persistence-snapshots", "persistence-unsynced"])
def test_what_a_restart_loses(private_server, id_):
    args = {
        "persistence-off": (),
        "persistence-snapshots": ("--save", "3600 1"),
        "persistence-unsynced": (*KEPT, "--appendfsync", "no"),
    }
    server = private_server(args=args[id_])
    mended(Shop(server.unix_url), id_, server)
    if id_ == "persistence-off":
        # Who has a guard store of their own may lose what can be computed again.
        server.cli("CONFIG", "SET", "appendonly", "no")
        guard = private_server(args=KEPT).unix_url
        assert Shop(server.unix_url, f"app.conf.workerkit_guard_url = {guard!r}", broker="memory://").ids() == []


def saved(server):
    """Have the server write a snapshot; what it says of it."""
    until = time.monotonic() + 20
    with suppress(StoreRefused):  # one is under way already
        server.cli("BGSAVE")
    while "bgsave_in_progress:1" in (told := server.cli("INFO", "persistence")):
        assert time.monotonic() < until
        time.sleep(0.02)
    return told.partition("rdb_last_bgsave_status:")[2].split()[0]


def test_a_server_that_cannot_write_its_snapshot(server):
    _, place = server.cli("CONFIG", "GET", "dir")
    in_the_way = Path(place if isinstance(place, str) else place.decode(), "dump.rdb")
    in_the_way.mkdir()
    assert saved(server) == "err"
    shop = Shop(server.unix_url)
    finding = found(shop.examine(), "persistence-failing")
    assert "rdb_last_bgsave_status" in finding.text
    assert str(in_the_way.parent) in finding.fix
    assert finding.fix.endswith("then BGSAVE")
    in_the_way.rmdir()
    assert saved(server) == "ok"
    assert shop.ids() == []


def test_fewer_connections_than_the_processes_may_open(server):
    server.cli("CONFIG", "SET", "maxclients", "120")
    shop = Shop(server.unix_url)
    assert shop.ids() == []
    assert shop.ids(processes=2) == []
    finding = mended(shop, "maxclients-low", server, processes=3)
    assert "3 processes with up to 50 connections each" in finding.text
    assert "maxclients of 120" in finding.text


def test_the_processes_that_are_connected_are_counted(server):
    kits = [Shop(server.unix_url).kit for _ in range(3)]
    for kit in kits:
        kit.ping()
    (looked,) = Shop(server.unix_url).examine().facts.servers
    assert looked.processes == 1  # this one, whatever number of kits it has
    socks = []
    for pid in (71, 72):
        socks.append(sock := socket.socket(socket.AF_UNIX))
        sock.connect(str(server.socket))
        sock.sendall(f"CLIENT SETNAME workerkit:redis:elsewhere:{pid}\r\n".encode())
        assert sock.recv(100) == b"+OK\r\n"
    server.cli("CONFIG", "SET", "maxclients", "140")
    report = Shop(server.unix_url).examine()
    assert report.facts.servers[0].processes == 3
    assert [finding.id for finding in report.findings] == ["maxclients-low"]
    for kit in kits:
        kit.close()
    for sock in socks:
        sock.close()


def test_a_server_with_nearly_all_its_connections_open(server):
    server.cli("CONFIG", "SET", "maxclients", "60")
    socks = []
    for _ in range(56):
        socks.append(sock := socket.socket(socket.AF_UNIX))
        sock.connect(str(server.socket))
    shop = Shop(server.unix_url)
    mended(shop, "maxclients-reached", server)
    for sock in socks:
        sock.close()


def test_a_replica_takes_no_writes(server, private_server):
    primary = private_server(tcp=True, args=KEPT)
    server.cli("REPLICAOF", "127.0.0.1", str(primary.port))
    shop = Shop(server.unix_url)
    finding = found(shop.examine(), "replica")
    assert f"redis://127.0.0.1:{primary.port}/<db>" in finding.fix
    for line in finding.fix.replace("<db>", "0").split("; "):
        if "guard" not in line:
            shop.lines.append(line)
    shop.make()
    assert shop.ids() == []


@pytest.mark.parametrize("kind", ["valkey", "redis-6.2"])
def test_what_a_user_may_not_ask_is_said_and_the_rest_is_judged(private_server, kind):
    server = private_server(kind, tcp=True, args=KEPT)
    rights = ("~*", "&*", "+@all", "-@dangerous", "+select")
    server.cli("ACL", "SETUSER", "app", "on", ">s3cr3t", *rights)
    url = f"redis://app:s3cr3t@127.0.0.1:{server.port}/1"
    shop = Shop(url)
    report = shop.examine()
    assert [finding.id for finding in report.findings] == ["unreadable"]
    (finding,) = report.findings
    assert finding.severity == "note"
    assert finding.fix == "ACL SETUSER app +info +client|list +config|get"
    assert "s3cr3t" not in str(report)
    mended(shop, "unreadable", server)


def test_a_managed_server_has_no_config_but_is_judged_by_its_info():
    info = "redis_version:7.2.0\r\nmaxmemory:100\r\nmaxmemory_policy:allkeys-lru\r\naof_enabled:1\r\n"
    refused = b"-ERR unknown command 'CONFIG', with args beginning with: 'GET'\r\n"
    with Responder(info=bulk(info), config=refused, time=clock(0), client=bulk("")) as server:
        assert Shop(server.url).ids() == ["guard-evicts", "broker-evicts", "results-evicted", "unreadable"]


def test_a_server_that_is_too_old_answers_nevertheless():
    def told(version):
        return bulk(f"redis_version:{version}\r\nmaxmemory:0\r\naof_enabled:1\r\n")

    empty = b"*0\r\n"
    with Responder(info=told("5.0.14"), config=empty, time=clock(0), client=bulk("")) as server:
        server.answers["hello"] = b"-ERR unknown command `HELLO`, with args beginning with: `3`\r\n"
        shop = Shop(server.url)
        report = shop.examine()
        assert [finding.id for finding in report.findings] == ["server-old"]
        (finding,) = report.findings
        assert "5.0.14" in finding.text
        assert finding.fix == "run Redis 6.2 or later, or Valkey 7.2 or later"
        assert not report.unreachable
        for version, ids in {"6.0.20": ["server-old"], "6.2.14": [], "10.0.0": [], "7.2.4": []}.items():
            server.answers["info"] = told(version)
            assert shop.ids() == ids, version
        for version, ids in {"7.1.0": ["server-old"], "7.2.0": [], "9.1.2": []}.items():
            server.answers["info"] = bulk(f"redis_version:7.2.4\r\nvalkey_version:{version}\r\naof_enabled:1\r\n")
            assert shop.ids() == ids, version


@pytest.mark.parametrize("ahead", [-40.0, 3.0])
def test_a_clock_that_is_wrong(ahead):
    info = bulk("redis_version:7.2.0\r\nmaxmemory:0\r\naof_enabled:1\r\n")
    with Responder(info=info, config=b"*0\r\n", time=clock(ahead), client=bulk("")) as server:
        shop = Shop(server.url)
        report = shop.examine()
        finding = found(report, "clock-skew")
        assert ("ahead of" if ahead > 0 else "behind") in finding.text
        (looked,) = report.facts.servers
        assert abs(looked.skew - ahead) <= looked.skew_error + 0.1
        server.answers["time"] = clock(0)  # what `timedatectl set-ntp true` brings about
        assert finding.fix == "timedatectl set-ntp true"
        assert shop.ids() == []


def test_a_wrong_password_is_told_and_not_shown(private_server):
    server = private_server(tcp=True, args=KEPT)
    server.cli("CONFIG", "SET", "requirepass", "right")
    for password in ("", ":s3cr3t-wrong@"):
        report = Shop(f"redis://{password}127.0.0.1:{server.port}/0").examine()
        assert {finding.id for finding in report.findings} == {"refused"}
        assert report.unreachable
        assert "s3cr3t" not in str(report)


def test_a_visibility_timeout_shorter_than_a_run(url):
    shop = Shop(url, "app.conf.worker_soft_shutdown_timeout = 60")
    shop.lines.append('app.conf.broker_transport_options = {"visibility_timeout": 1000, "max_retries": 3}')
    shop.make()
    shop.noted(charge=100.0, price=2000.0)
    assert shop.ids() == ["visibility-prefetch", "time-limit-close", "prefetch-long"]  # price is acknowledged early
    shop.noted(charge=1500.0)
    report = shop.examine(ignore=["prefetch-long", "time-limit-close"])
    assert [finding.id for finding in report.findings] == ["visibility-run", "visibility-prefetch"]
    run = report.findings[0]
    assert run.severity == "error"
    assert "shop.charge, acknowledged late, has run for 25m" in run.text
    assert "16m40s" in run.text
    shop.apply(run)
    assert shop.ids(ignore=["prefetch-long", "time-limit-close"]) == []
    assert shop.app.conf.broker_transport_options == {"visibility_timeout": 18000, "max_retries": 3}


def test_a_visibility_timeout_shorter_than_a_countdown_or_a_time_limit(url):
    short = 'app.conf.broker_transport_options = {"visibility_timeout": 170}'
    assert Shop(url, short).ids() == ["visibility-countdown", "visibility-limit"]
    short = short.replace("170", "400")
    mended(Shop(url, short), "visibility-limit")


def test_late_acknowledgement_that_is_missing(url):
    finding = mended(Shop(url, job="@kit.task"), "acks-early")
    assert finding.where == "shop.rows"


def test_prefetching_behind_long_runs(url):
    shop = Shop(url)
    shop.noted(price=60.0)
    mended(shop, "prefetch-long")


def test_a_soft_shutdown_that_is_off(url):
    shop = Shop(url)
    shop.noted(rows=3.0)
    assert mended(shop, "soft-shutdown-off").fix == "app.conf.worker_soft_shutdown_timeout = 4"


@pytest.mark.parametrize(
    ("id_", "lines"),
    [
        ("gevent-prefetch", ["app.conf.worker_pool = 'gevent'", "app.conf.worker_prefetch_multiplier = 1"]),
        ("time-limit-missing", ["app.conf.task_time_limit = None"]),
        ("lease-long", ["app.conf.task_time_limit = 5"]),
        ("results-kept", ["app.conf.result_expires = None"]),
        ("always-eager", ["app.conf.task_always_eager = True"]),
        ("accepts-pickle", ["app.conf.accept_content = ['pickle', 'json']"]),
    ],
)
def test_settings_that_bite(url, id_, lines):
    mended(Shop(url, *lines), id_)


def test_time_limits_and_results_by_what_has_run(url):
    shop = Shop(url, "app.conf.worker_prefetch_multiplier = 1", "app.conf.result_expires = 400")
    shop.noted(price=500.0)
    report = shop.examine()
    assert [finding.id for finding in report.findings] == ["time-limit-close", "results-expire-early"]
    for finding in report.findings:
        shop.apply(finding)
    assert shop.ids() == []


def test_rabbitmq_is_asked_to_confirm(url):
    """Whether a broker that is no Redis answers is another finding."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    shop = Shop(url, broker=f"amqp://guest:s3cr3t@127.0.0.1:{port}//")
    shop.lines.append("app.conf.result_backend = None")
    shop.make()
    report = shop.examine()
    assert [finding.id for finding in report.findings] == ["broker-unreachable", "publish-unconfirmed"]
    assert report.unreachable
    assert "s3cr3t" not in str(report)
    shop.apply(report.findings[1])
    assert shop.ids() == ["broker-unreachable"]


def test_a_url_that_cannot_be_read_is_one_error(url):
    shop = Shop(url, "app.conf.workerkit_guard_url = 'http://x'")
    with pytest.raises(DefinitionError, match="workerkit_guard_url"):
        examine(shop.kit, shop.app)

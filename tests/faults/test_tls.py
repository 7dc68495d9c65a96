"""TLS: the right authority and host, and nothing else; one clear error otherwise, within the deadline."""

from __future__ import annotations

import asyncio

import pytest

from tests.rig import Rig, TlsFront, aio_outcome, charge, get, outcome
from workerkit.errors import DefinitionError, StoreUnavailable
from workerkit.testing.servers import start_server


@pytest.fixture(scope="module")
def server(main_kind):
    with start_server(main_kind, tcp=True) as server:
        yield server


@pytest.fixture(scope="module")
def front(server, tmp_path_factory):
    with TlsFront(server, tmp_path_factory.mktemp("tls")) as front:
        yield front


@pytest.fixture(scope="module")
def foreign_ca(server, tmp_path_factory):
    """An authority of the same name, with another key."""
    return TlsFront(server, tmp_path_factory.mktemp("foreign")).ca


def both_sides(url, timeout=10.0):
    rig = Rig(url, timeout=timeout)
    return outcome(lambda: rig.runner.call(get("key"))), asyncio.run(aio_outcome(rig.aio.call(get("key"))))


def test_a_trusted_server_is_used(server, front):
    server.cli("SET", "key", "value")
    assert both_sides(front.url()) == (b"value", b"value")
    assert both_sides(front.url("127.0.0.1")) == (b"value", b"value")
    rig = Rig(front.url())
    assert [rig.runner.call(charge("count")) for _ in range(50)] == list(range(1, 51))
    assert (rig.pool.size, rig.pool.in_use) == (1, 0)  # nothing the server says unasked costs a connection


def test_a_real_server_with_tls_is_used(require, private_server):
    require("redis-7", tls=True)
    server = private_server("redis-7", tls=True)
    rig = Rig(server.tls_url)
    assert [rig.runner.call(charge("count")) for _ in range(50)] == list(range(1, 51))
    assert (rig.pool.size, rig.pool.in_use) == (1, 0)
    assert asyncio.run(rig.aio.call(charge("count"))) == 51


@pytest.mark.parametrize("wrong", ["authority", "no authority", "host"])
def test_an_untrusted_server_is_refused(front, foreign_ca, wrong):
    url = {
        "authority": front.url(ca=foreign_ca),
        "no authority": front.url().partition("?")[0],
        "host": front.url("127.1"),  # resolves to 127.0.0.1, but is not in the certificate
    }[wrong]
    for answer in both_sides(url):
        print(f"{wrong}: {answer}")
        assert isinstance(answer, StoreUnavailable)
        assert "certificate verify failed" in str(answer)


def test_verification_can_be_turned_off_by_name(front):
    assert both_sides(front.url("127.1").partition("?")[0] + "?ssl_cert_reqs=none") == (b"value", b"value")
    assert both_sides(front.url("127.1") + "&ssl_check_hostname=false") == (b"value", b"value")


def test_a_missing_certificate_file_is_a_definition_error(front, tmp_path):
    for answer in both_sides(front.url(ca=tmp_path / "missing.crt")):
        assert isinstance(answer, DefinitionError)
        assert "ssl_ca_certs" in str(answer)


def test_tls_to_a_plain_port_and_plain_to_a_tls_port_fail_in_time(server, front):
    for url in (f"rediss://localhost:{server.port}", f"redis://localhost:{front.port}"):
        for answer in both_sides(url, timeout=0.3):
            assert isinstance(answer, StoreUnavailable), answer

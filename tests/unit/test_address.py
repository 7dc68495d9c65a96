from __future__ import annotations

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workerkit.errors import DefinitionError
from workerkit.io.address import masked, parse_address


def parse(url):
    return parse_address(url, what="redis_url")


def test_tcp():
    address = parse("redis://user:pa%40ss@host:6380/3")
    assert (address.transport, address.db, address.username, address.password) == ("tcp", 3, "user", "pa@ss")
    assert address.arguments == {"host": "host", "port": 6380}
    assert address.shown == "redis://host:6380/3"


def test_defaults():
    address = parse("redis://")
    assert address.arguments == {"host": "localhost", "port": 6379}
    assert (address.db, address.username, address.password) == (0, None, None)


@pytest.mark.parametrize(("alias", "transport"), [("valkey", "tcp"), ("valkeys", "tls"), ("rediss", "tls")])
def test_aliases(alias, transport):
    assert parse(f"{alias}://host").transport == transport


def test_unix():
    address = parse("unix://:secret@/run/redis.sock?db=2")
    assert (address.transport, address.db, address.password) == ("unix", 2, "secret")
    assert address.arguments == {"path": "/run/redis.sock"}
    assert address.shown == "unix:///run/redis.sock"


def test_a_socket_may_have_any_name():
    address = parse("unix:///run/a@b.sock")
    assert address.arguments == {"path": "/run/a@b.sock"}
    assert address.shown == "unix:///run/a@b.sock"


def test_tls_options():
    address = parse("rediss://host/0?ssl_ca_certs=/ca.crt&ssl_check_hostname=false")
    assert address.arguments["ssl_ca_certs"] == "/ca.crt"
    assert address.arguments["ssl_check_hostname"] is False


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "is not a URL"),
        ("localhost:6379", "is not a URL"),
        ("http://host", "no scheme that is known"),
        ("redis+cluster://host", "not supported yet"),
        ("redis+sentinel://host/name", "not supported yet"),
        ("redis://host:port", "cannot be read"),
        ("redis://host:99999999", "cannot be read"),
        ("redis://host/name", "'name' is not a number"),
        ("redis://host/-1", "'-1' is not a number"),
        ("redis://host/²", "is not a number"),
        ("redis://host?db=x", "cannot be read"),
        ("redis://host?db=-1", "database"),
        ("redis://host?socket_timeout=5", "option socket_timeout is not known"),
        ("redis://host?retry_on_timeout=1&max_connections=3", "max_connections, retry_on_timeout is not known"),
        ("rediss://host?ssl_cert_reqs=maybe", "ssl_cert_reqs is one of none, optional, required"),
        ("redis://:123/45@host/0", "%2F"),
        ("redis://jane:a@b/c@host/0", "%40"),
        ("unix://", "needs the path of a socket"),
        ("redis://[::1", "cannot be read"),
    ],
)
def test_what_will_not_do_names_the_setting_and_says_what_to_write(url, said):
    with pytest.raises(DefinitionError) as caught:
        parse(url)
    assert "redis_url" in str(caught.value)
    assert said in str(caught.value)


SECRETS = ["hunter2", "hun/ter2", "hun#ter2", "hun?ter2", "hun@ter2", "hun:ter2", "hun[ter2", "%zzhunter2", "hun ter2"]


@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix", "http", "redis+cluster"])
@pytest.mark.parametrize("secret", SECRETS)
def test_no_password_is_shown_however_badly_it_is_written(scheme, secret):
    url = f"{scheme}://jane:{secret}@host:6379/0?db=1"
    shown = masked(url)
    try:
        address = parse(url)
        shown += repr(address) + address.shown
    except DefinitionError as error:
        shown += "".join(traceback.format_exception(error))
    for part in ("hunter2", "ter2", "jane"):
        assert part not in shown


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_one_clear_error(text):
    for url in (text, f"redis://{text}", f"redis://u:{text}@host/1", f"unix://{text}"):
        said = "redis_url"
        try:
            parse(url)
        except DefinitionError as error:
            said = str(error)
        assert "redis_url" in said

"""The HTTP transports, each on a real server and a real Redis: what is charged, held and learned, and for how long."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import multiprocessing
import time

import pytest

from tests.rig import until
from tests.server.apps.api import BODY, CLIENTS, AioHttp, AioHttpx, Api, Requests
from tests.server.limit_rig import command, leases
from workerkit.api.engine import Engine
from workerkit.api.limiter import Limiter
from workerkit.api.settings import load
from workerkit.core.events import BackgroundTrouble, Hooks, LimitDown, LimitLearned
from workerkit.errors import RateLimited, StoreError

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # bodies are dropped unread on purpose
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def api():
    api = Api()
    yield api
    api.close()


@pytest.fixture
def events():
    return []


@pytest.fixture
def engine(redis_url, events):
    engine = Engine(lambda: load({"redis_url": redis_url}), Hooks(events.append))
    yield engine
    engine.close()


@pytest.fixture(params=CLIENTS, ids=lambda kind: kind.__name__)
def connect(request):
    """`connect(limiter, **options)`: a client under the limiter; of each library in turn."""
    clients = []

    def connect(limiter, **options):
        clients.append(request.param(limiter, **options))
        return clients[-1]

    connect.kind = request.param
    yield connect
    for client in clients:
        client.close()


def rate(limiter, key=""):
    return limiter.usage(key).rates[0]


def lease_end(limiter):
    """When the only lease of the key "" is over, in the server's us."""
    ((_, end),) = command(limiter.engine, "ZRANGE", leases(limiter), 0, -1, "WITHSCORES")
    return end


# What is charged


def test_requests_are_counted_and_refused_before_they_are_sent(engine, api, connect):
    client = connect(Limiter(engine, "api", "3/m"), wait=None)
    assert [client.get(api.url + "/ok") for _ in range(3)] == [(200, BODY)] * 3
    with pytest.raises(RateLimited) as refused:
        client.get(api.url + "/ok")
    assert refused.value.bound_by == "3/m"
    assert len(api.arrivals) == 3


def test_requests_wait_for_their_turn(engine, api, connect):
    client = connect(Limiter(engine, "api", "1/100ms"), wait="20s")
    for _ in range(4):
        client.get(api.url + "/ok")
    pairs = itertools.pairwise(at for _, at in api.arrivals)
    assert min(later - earlier for earlier, later in pairs) >= 0.1


def test_a_wait_that_cannot_suffice_is_refused_at_once(engine, api, connect):
    client = connect(Limiter(engine, "api", "1/h"), wait="20s")
    client.get(api.url + "/ok")
    began = time.monotonic()
    with pytest.raises(RateLimited):
        client.get(api.url + "/ok")
    assert time.monotonic() - began < 20


def test_a_redirect_counts_as_a_request_of_its_own(engine, api, connect):
    limiter = Limiter(engine, "api", "10/m")
    assert connect(limiter).get(api.url + "/redirect") == (200, BODY)
    assert rate(limiter).remaining == 10 - len(api.arrivals) == 8


def test_keys_and_costs_come_from_the_request(engine, api, connect):
    limiter = Limiter(engine, "api", "10/m", "1000 tokens/m")
    client = connect(limiter, key=lambda request: str(request.url)[-2:], cost=lambda _: {"tokens": 300, "cost": 2})
    client.get(api.url + "/ok")
    assert [each.remaining for each in limiter.usage("ok").rates] == [8, 700]
    assert [each.remaining for each in limiter.usage().rates] == [10, 1000]


def test_what_a_response_says_was_used_is_settled(engine, api, connect):
    limiter = Limiter(engine, "api", "1000 tokens/m", concurrency=2)
    used = []

    def settle(response):
        body = response.content if connect.kind is Requests else response.read()
        used.append(body)
        return {"tokens": len(body)}

    async def aio_settle(response):
        used.append(await (response.read() if connect.kind is AioHttp else response.aread()))
        return {"tokens": len(used[-1])}

    aio = issubclass(connect.kind, AioHttpx)
    client = connect(limiter, cost=lambda _: {"tokens": 300}, settle=aio_settle if aio else settle)
    assert client.get(api.url + "/ok") == (200, BODY)
    assert used == [BODY]
    assert rate(limiter).remaining == 1000 - len(BODY)
    assert limiter.usage().holders == 0


def test_a_response_that_says_nothing_of_its_use_is_as_charged(engine, api, connect):
    limiter = Limiter(engine, "api", "10/m")
    connect(limiter, cost=lambda _: {"cost": 3}, settle=lambda _: None).get(api.url + "/ok")
    assert rate(limiter).remaining == 7


def test_a_settle_that_fails_is_told_and_leaves_nothing_held(engine, api, connect):
    limiter = Limiter(engine, "api", "9/m", concurrency=2)
    responses = []
    client = connect(limiter, settle=lambda response: responses.append(response) or {"cost": -1})
    with pytest.raises(ValueError, match="whole number from 0"):
        client.get(api.url + "/stream")
    [response] = responses
    assert {Requests: lambda: response.raw.closed, AioHttp: lambda: response.closed}.get(
        connect.kind, lambda: response.is_closed
    )()
    assert (rate(limiter).remaining, rate(limiter).held, limiter.usage().holders) == (8, 0, 0)


# For how long


def test_a_charge_is_held_until_the_answer_has_come(engine, api, connect):
    limiter = Limiter(engine, "api", "9/m")
    client = connect(limiter)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.get, api.url + "/slow")
        until(lambda: api.arrivals)
        assert (rate(limiter).held, rate(limiter).remaining) == (1, 8)
        api.go.set()
        assert answer.result(30) == (200, BODY)
    assert (rate(limiter).held, rate(limiter).remaining) == (0, 8)


@pytest.mark.parametrize("algorithm", ["gcra", "fixed"])
def test_other_algorithms_count_at_the_decision(engine, api, connect, algorithm):
    limiter = Limiter(engine, "api", "9/h", algorithm=algorithm)
    assert connect(limiter).get(api.url + "/ok") == (200, BODY)
    assert (rate(limiter).held, rate(limiter).remaining < 9) == (0, True)


def test_without_a_cap_the_slot_ends_with_the_head(engine, api, connect):
    limiter = Limiter(engine, "api", "9/m")
    client = connect(limiter)
    client.open(api.url + "/stream")
    assert (rate(limiter).held, rate(limiter).remaining) == (0, 8)
    api.go.set()
    assert client.read() == BODY


@pytest.mark.parametrize("end", ["read", "shut"])
def test_with_a_cap_a_body_holds_its_place_until_it_was_read_or_closed(engine, api, connect, end):
    limiter = Limiter(engine, "api", concurrency=1)
    client = connect(limiter, wait=None)
    client.open(api.url + "/stream")
    assert limiter.usage().holders == 1
    with pytest.raises(RateLimited, match="concurrency"):
        client.get(api.url + "/ok")
    if end == "read":
        api.go.set()
        assert client.read() == BODY
    else:
        client.shut()
    assert client.get(api.url + "/ok") == (200, BODY)
    until(lambda: limiter.usage().holders == 0)


@pytest.mark.parametrize("read", ["read", "iterate", "close", "release"])
def test_a_raw_body_of_requests_holds_its_place_until_its_end(engine, api, read):
    limiter = Limiter(engine, "api", concurrency=1)
    client = Requests(limiter)
    client.open(api.url + "/stream")
    raw = client.response.raw
    assert (raw.status, limiter.usage().holders) == (200, 1)
    api.go.set()
    if read == "read":
        assert raw.read(50) == BODY[:50]
        assert limiter.usage().holders == 1
        assert raw.read() == BODY[50:]
    elif read == "iterate":
        assert b"".join(raw) == BODY
    elif read == "close":
        raw.close()
    else:
        raw.release_conn()
    assert limiter.usage().holders == 0
    client.close()


def test_a_body_that_is_dropped_unread_gives_its_place_back(engine, api, connect):
    limiter = Limiter(engine, "api", concurrency=1, lease="300ms")
    client = connect(limiter, wait=None)
    client.open(api.url + "/stream")
    first = lease_end(limiter)
    until(lambda: lease_end(limiter) > first + 600_000)  # two leases later: it is renewed
    assert limiter.usage().holders == 1
    client.drop()
    if connect.kind is AioHttp:
        api.go.set()  # its connection goes on receiving what nobody wants, and is in use until that has ended
    until(lambda: limiter.usage().holders == 0)


def test_with_a_cap_one_request_follows_another_at_once(engine, api, connect):
    limiter = Limiter(engine, "api", concurrency=1)
    client = connect(limiter, wait=None)
    if issubclass(connect.kind, AioHttpx):

        async def many():
            return [await client.aio_get(api.url + "/ok") for _ in range(20)]

        answers = client.run(many())
    else:
        answers = [client.get(api.url + "/ok") for _ in range(20)]
    assert answers == [(200, BODY)] * 20


# What fails under way


@pytest.mark.parametrize("options", [{}, {"concurrency": 3}])
def test_a_request_that_fails_under_way_keeps_its_charge_and_frees_its_place(engine, api, connect, options):
    limiter = Limiter(engine, "api", "9/m", **options)
    client = connect(limiter, wait=None)
    with pytest.raises(client.failures):
        client.get(api.url + "/drop")
    with pytest.raises(client.failures):
        client.get(api.url + "/slow", timeout=0.1)
    with pytest.raises(client.failures):
        client.get("http://127.0.0.1:1/")
    left = 9 - 1 - max(2, len(api.arrivals))  # aiohttp itself repeats what was dropped: that counts, too
    assert (rate(limiter).held, rate(limiter).remaining, limiter.usage().holders) == (0, left, 0)


@pytest.mark.parametrize("kind", [AioHttpx, AioHttp])
def test_a_cancelled_request_keeps_its_charge_and_frees_its_place(engine, api, kind):
    limiter = Limiter(engine, "api", "9/m", concurrency=1)
    client = kind(limiter)
    request = client.started(api.url + "/slow")
    until(lambda: api.arrivals)
    assert limiter.usage().holders == 1
    request.cancel()
    until(lambda: limiter.usage().holders == 0)
    assert (rate(limiter).held, rate(limiter).remaining) == (0, 8)
    client.close()


@pytest.mark.parametrize("kind", [AioHttpx, AioHttp])
def test_a_body_that_is_open_when_the_loop_ends_gives_its_place_back(engine, api, kind):
    limiter = Limiter(engine, "api", concurrency=1, lease="20s")

    async def leave() -> None:
        client = object.__new__(kind)
        await client.start(limiter, {})
        await client.aio_open(api.url + "/stream")
        assert (await limiter.aio.usage()).holders == 1
        if kind is AioHttpx:  # which leaves it to the owner to close a response
            await client.aio_shut()
        await client.end()

    asyncio.run(leave())
    assert limiter.usage().holders == 0


# What is learned


def test_a_refusal_is_the_callers_and_pauses_the_key_for_everybody(engine, api, connect, events):
    limiter = Limiter(engine, "api", "9/m")
    client = connect(limiter, key="k", wait=None)
    api.headers = [("Retry-After", "100")]
    asked = time.monotonic()
    assert client.get(api.url + "/refuse") == (429, BODY)
    assert len(api.arrivals) == 1
    with pytest.raises(RateLimited) as refused:
        client.get(api.url + "/ok")
    assert refused.value.bound_by == "pause"
    assert 100 - (time.monotonic() - asked) <= refused.value.retry_after <= 100.01
    assert limiter.peek("other").allowed
    learned = [event for event in events if isinstance(event, LimitLearned)]
    assert [(event.pause, event.refused) for event in learned] == [(100.0, True)]


def test_a_refusal_pauses_every_other_process(engine, api, connect, redis_url):
    api.headers = [("Retry-After", "100")]

    def be_refused(kind):
        client = kind(Limiter(Engine(lambda: load({"redis_url": redis_url}), Hooks()), "api", "1000/s"))
        assert client.get(api.url + "/refuse")[0] == 429

    process = FORK.Process(target=be_refused, args=[connect.kind], daemon=True)
    client = connect(Limiter(engine, "api", "1000/s"), wait=None, learn=False)
    client.get(api.url + "/ok")
    process.start()
    with contextlib.suppress(RateLimited):
        while process.is_alive():
            client.get(api.url + "/ok")
    process.join(20)
    assert process.exitcode == 0
    with pytest.raises(RateLimited, match="pause"):
        client.get(api.url + "/ok")
    refused = next(at for path, at in api.arrivals if path == "/refuse")
    late = [at - refused for path, at in api.arrivals if path == "/ok" and at > refused]
    print(f"\n{connect.kind.__name__}: last of {len(late)} more requests {1000 * max(late, default=0):.1f} ms later")


def test_what_the_api_says_is_left_tightens_and_never_loosens(engine, api, connect):
    limiter = Limiter(engine, "api", "9/m")
    client = connect(limiter, wait=None)
    api.headers = [("X-RateLimit-Limit", "1000"), ("X-RateLimit-Remaining", "999"), ("X-RateLimit-Reset", "60")]
    client.get(api.url + "/ok")
    assert limiter.peek().remaining == 8
    api.headers = [("RateLimit", '"default";r=2;t=60')]
    client.get(api.url + "/ok")
    assert rate(limiter).told is not None
    assert rate(limiter).remaining == 7
    assert sum(limiter.try_acquire().allowed for _ in range(7)) == 2
    assert limiter.peek().bound_by == "learned"


@pytest.mark.parametrize("options", [{}, {"concurrency": 2}, {"algorithm": "fixed"}])
def test_all_that_the_api_has_left_can_be_used(engine, api, connect, options):
    limiter = Limiter(engine, "api", "9/h", **options)
    client = connect(limiter, wait=None)
    for left in (2, 1, 0):
        api.headers = [("RateLimit", f'"default";r={left};t=3600')]
        assert client.get(api.url + "/ok") == (200, BODY)
    with pytest.raises(RateLimited) as refused:
        client.get(api.url + "/ok")
    assert refused.value.bound_by == "learned"


def test_a_refusal_brings_down_the_unit_that_is_used_up(engine, api, connect):
    limiter = Limiter(engine, "api", "10/m", "1000 tokens/m")
    client = connect(limiter, cost=lambda _: {"tokens": 100})
    api.headers = [("x-ratelimit-remaining-requests", "5"), ("x-ratelimit-reset-requests", "6m0s")]
    api.headers += [("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "1s")]
    client.get(api.url + "/refuse")
    assert [each.learned for each in limiter.usage().rates] == [1.0, 0.7]


def test_nothing_is_learned_where_that_is_not_wanted(engine, api, connect):
    limiter = Limiter(engine, "api", "9/m")
    client = connect(limiter, wait=None, learn=False)
    api.headers = [("Retry-After", "100"), ("RateLimit", '"default";r=0;t=60')]
    assert client.get(api.url + "/refuse") == (429, BODY)
    api.headers = []
    assert client.get(api.url + "/ok") == (200, BODY)


def test_hostile_headers_change_nothing_and_are_told_by_name_only(engine, api, connect, events):
    limiter = Limiter(engine, "api", "9/m")
    client = connect(limiter, wait=None)
    hostile = "9" * 5000
    api.headers = [("RateLimit", hostile), ("X-RateLimit-Remaining", "NaN"), ("x-ratelimit-remaining", "-5")]
    api.headers += [("RateLimit-Policy", '"a";q=1e400;w=-1'), ("X-RateLimit-Reset", "\x80\xff")]
    assert client.get(api.url + "/ok") == (200, BODY)
    assert limiter.peek().remaining == 8
    told = [event for event in events if isinstance(event, LimitLearned)]
    assert [set(event.ignored) for event in told] == [
        {"ratelimit", "x-ratelimit-remaining", "ratelimit-policy", "x-ratelimit-reset"}
    ]
    assert hostile not in repr(told)


# When Redis is down


def test_a_response_reaches_its_caller_though_redis_went_down_meanwhile(fresh_server, api, connect, events):
    engine = Engine(lambda: load({"redis_url": fresh_server.url, "timeout": 2.0}), Hooks(events.append))
    client = connect(Limiter(engine, "api", "9/m", concurrency=2))
    api.headers, api.act = [("RateLimit", '"default";r=2;t=60')], fresh_server.kill
    assert client.get(api.url + "/then") == (200, BODY)
    troubles = {"headers for limiter api", "lease of limiter api"}
    until(lambda: {event.what for event in events if isinstance(event, BackgroundTrouble)} == troubles)
    with pytest.raises(StoreError):
        client.get(api.url + "/ok")
    assert len(api.arrivals) == 1
    engine.close()


def test_an_open_limiter_lets_requests_pass_unseen(fresh_server, api, connect, events):
    engine = Engine(lambda: load({"redis_url": fresh_server.url, "timeout": 2.0}), Hooks(events.append))
    client = connect(Limiter(engine, "api", "9/m", concurrency=2, when_down="open"), settle=lambda _: {"cost": 2})
    fresh_server.kill()
    assert client.get(api.url + "/ok") == (200, BODY)
    assert any(isinstance(event, LimitDown) for event in events)
    engine.close()

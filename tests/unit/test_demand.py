"""What a process counts of what is asked for."""

from __future__ import annotations

import random
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workerkit import WorkerKit
from workerkit.api.demanding import _SECRET, decoded
from workerkit.api.demanding import encoded as written
from workerkit.core.keys import Keys
from workerkit.errors import DefinitionError
from workerkit.warming.demand import FORGET, FREE, HELD, HELD_BYTES, ONE_IN, SENT, Demand

NOWHERE = "redis://127.0.0.1:1"


def encoded(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | None:
    return None if "secret" in args else repr((args, kwargs)).encode()


def demand(encode: Any = encoded) -> Demand:
    return Demand(Keys("wk", "h"), "f", encode)


def ask(it: Demand, *calls: object) -> None:
    for call in calls:
        it.note(str(call), (call,), {})


def taken(it: Demand) -> dict[str, int]:
    return {part: count for part, count, _ in it.take()}


@given(st.lists(st.integers(0, FREE - 1)))
def test_few_calls_are_counted_exactly(calls: list[int]) -> None:
    it = demand()
    ask(it, *calls)
    assert taken(it) == Counter(map(str, calls))
    assert taken(it) == {}
    ask(it, *calls)
    assert taken(it) == Counter(map(str, calls))


def test_between_two_flushes_the_first_are_all_taken_hold_of() -> None:
    it = demand()
    for flush in range(3):
        calls = [f"{flush} {number}" for number in range(FREE)]
        ask(it, *calls)
        assert taken(it) == dict.fromkeys(calls, 1)


def test_arguments_are_sent_once_and_again_after_long() -> None:
    it = demand()
    sent = []
    for flush in range(FORGET + 2):
        ask(it, 7)
        ((_, _, call),) = it.take()
        if call:
            sent.append((flush, call))
    assert sent == [(0, b"((7,), {})"), (FORGET, b"((7,), {})")]


def test_what_is_not_asked_for_any_more_is_let_go_of() -> None:
    it = demand()
    ask(it, 7)
    it.take()
    it.take()
    ask(it, 7)
    assert it.take()[0].call == b"((7,), {})"


def test_what_could_not_be_sent_is_sent_with_the_next() -> None:
    it = demand()
    ask(it, 7, 7)
    lost = it.take()
    ask(it, 7)
    it.give_back(lost)
    assert it.take() == [("7", 3, b"((7,), {})")]
    ask(it, 8)
    lost = it.take()
    it.take()
    it.give_back(lost)  # meanwhile it was let go of
    assert it.take() == []


def test_what_could_not_be_sent_after_it_was_let_go_of_and_held_anew() -> None:
    it = demand()
    ask(it, "a")
    lost = it.take()  # a slow flush; meanwhile:
    it.take()
    ask(it, "a")
    it.give_back(lost)
    assert it.take() == [("a", 2, b"(('a',), {})")]


def test_a_flush_while_a_call_is_noted() -> None:
    """Another thread may run within note(), such as in dict.get."""
    it = demand()
    flushes = iter([it.take])

    class Part(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            next(flushes, list)()
            return str.__eq__(self, other)

    ask(it, 7)
    it.take()
    it.note(Part("7"), (7,), {})  # meanwhile it is let go of
    assert it.take() == [("7", 1, b"((7,), {})")]


@pytest.fixture
def impatient() -> Iterator[None]:
    """Threads that take turns all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("impatient")
def test_any_threads_at_any_time() -> None:
    it, done, sent = demand(), threading.Event(), Counter[str]()

    def noting(seed: int) -> int:
        noted = 0
        while not done.is_set():
            ask(it, *range(50), f"{seed} {noted}")
            noted += 50
        return noted

    with ThreadPoolExecutor(4) as threads:
        noters = [threads.submit(noting, seed) for seed in range(4)]
        try:
            for flush in range(300):
                found = it.take()
                if flush % 3 == 0:
                    it.give_back(found)
                else:
                    sent.update({part: times for part, times, _ in found})
        finally:
            done.set()
        noted = sum(noter.result() for noter in noters)
    sent.update(taken(it))
    assert sum(sent[str(number)] for number in range(50)) == pytest.approx(noted, rel=0.05, abs=200)
    assert all(each.call for each in it._held.values())


@pytest.mark.usefixtures("impatient")
def test_it_is_never_too_full_for_many_threads() -> None:
    it = demand()

    def noting(seed: int) -> None:
        ask(it, *(f"{seed} {number}" for number in range(3 * ONE_IN * HELD)))

    with ThreadPoolExecutor(6) as threads:
        noters = [threads.submit(noting, seed) for seed in range(4)]
        while not all(noter.done() for noter in noters):  # two flushes at once, as there are a thread's and a loop's
            for flush in [threads.submit(it.take) for _ in range(2)]:
                flush.result()
            assert len(it._held) <= HELD + 4
    assert [noter.result() for noter in noters] == [None] * 4


def test_two_that_pass_over_the_same_call() -> None:
    it = demand()
    it._skip = -1
    ask(it, "a")
    assert taken(it) == {"a": 1}


def test_secrets_are_neither_stored_nor_looked_at_twice() -> None:
    seen = []

    def encode(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | None:
        seen.append(args)
        return encoded(args, kwargs)

    it = demand(encode)
    ask(it, *["secret"] * 100, "plain")
    assert taken(it) == {"plain": 1}
    assert it.left_out == 1
    assert len(seen) == 2


def test_the_tail_is_sampled_without_a_bias() -> None:
    it, chance = demand(), random.Random(7)
    ask(it, *(f"free {number}" for number in range(FREE)))
    calls = [f"tail {chance.randrange(10**9)}" for _ in range(ONE_IN * 1000)]
    ask(it, *calls)
    held = {part: each.count for part, each in it._held.items() if part.startswith("tail")}
    assert set(held.values()) == {ONE_IN}
    assert sum(held.values()) == len(calls)


@pytest.mark.parametrize("length", [1, 174, 1000])
def test_it_stays_small(length: int) -> None:
    it = demand(lambda args, kwargs: b"x" * length)
    for number in range(200_000):
        it.note(f"wk:c:{{f:{number:032}}}:v", (number,), {})
    assert len(it._held) <= HELD
    numbers = 2 * sys.getsizeof(1 << 30)
    size = sys.getsizeof(it._held) + sum(sys.getsizeof(part) for part in it._held)
    size += sum(sys.getsizeof(each) + 16 + sys.getsizeof(each.call) + numbers for each in it._held.values())
    assert size <= 1_000_000
    assert it._bytes == sum(len(each.call) for each in it._held.values()) <= HELD_BYTES
    assert len(it.take()) <= SENT


def test_of_too_many_those_asked_for_most_are_held_and_sent() -> None:
    it = demand(lambda args, kwargs: b"x")
    popular = [f"popular {number}" for number in range(FREE)]
    ask(it, *popular * (ONE_IN + 1))
    for number in range(ONE_IN * HELD):
        ask(it, f"tail {number}")
        assert len(it._held) <= HELD
    sent = [each.part for each in it.take()]
    assert len(sent) == SENT
    assert sent[:FREE] == popular


def test_the_most_popular_of_a_long_tail_are_known() -> None:
    """Zipf(1.0) over 10,000 calls, told every 2,000."""
    chance, it, fleet = random.Random(11), demand(), Counter[str]()
    weights = [1 / rank for rank in range(1, 10_001)]
    for _ in range(50):
        ask(it, *chance.choices(range(10_000), weights, k=2000))
        fleet.update(taken(it))
    top = {part for part, _ in fleet.most_common(100)}
    assert len(top & set(map(str, range(100)))) >= 80  # what chance leaves: ranks near 100 are asked for 100 times
    exact = Counter(map(str, random.Random(11).choices(range(10_000), weights, k=2000)))
    assert exact.keys() - fleet.keys() != set()  # it is a sample


def test_a_call_is_stored_only_if_it_comes_back_as_it_is() -> None:
    kit = WorkerKit(url=NOWHERE, hooks=[])

    @kit.memoize("1h")
    def price(item: Any, **more: Any) -> Any:
        return item

    function = price.memo.function
    data = written(function, ("a",), {"in": ["EUR", None, 1.5]})
    assert data is not None
    assert decoded(data) == (("a",), {"in": ["EUR", None, 1.5]})
    for item in ((1, 2), {1: 2}, float("nan"), b"a", "x" * 1024, {"headers": [{"Authorization": "hunter2"}]}):
        assert written(function, (item,), {}) is None
    assert written(function, ("a",), {"password": "hunter2"}) is None
    assert written(function, ('"password":',), {}) is not None


def test_what_the_users_own_key_raises_is_no_trouble_of_the_caller() -> None:
    kit = WorkerKit(url=NOWHERE, hooks=[])

    @kit.memoize("1h", key=lambda names: names[1])
    def price(names: dict[int, str]) -> None: ...

    assert written(price.memo.function, ({1: "a"},), {}) is None  # JSON knows no such key


def test_ignored_arguments_however_they_are_given() -> None:
    kit = WorkerKit(url=NOWHERE, hooks=[])

    @kit.memoize("1h", ignore=["trace", "more"])
    def price(*items: str, trace: str = "", **more: str) -> None: ...

    @kit.memoize("1h", ignore=["trace", "rest"])
    def cost(item: str, trace: str = "", *rest: str) -> None: ...

    function, other = price.memo.function, cost.memo.function
    assert written(function, ("a", "b"), {}) == b'[["a","b"],{}]'
    assert written(other, ("a",), {}) == b'[["a"],{}]'
    assert written(function, ("a",), {"trace": "t"}) is written(function, ("a",), {"any": "t"}) is None
    assert written(other, ("a", "t"), {}) is written(other, ("a",), {"trace": "t"}) is None


SECRETS = """
    password PASSWORD db_password userPassword password2 passwd pwd passphrase secret client_secret clientSecret
    token tokens apiToken accessToken access_token accesstoken AUTH_TOKEN refresh_tokens csrfToken JWTToken token_id
    api_key apikey apiKey API_KEY APIKey userAPIKey x-api-key X-Auth-Token private_key privateKey access_key_id
    credentials creds authorization Authorization bearer jwt otp session_id sessionId session_key cookie Set-Cookie
"""
PLAIN = """
    max_tokens maxTokens min_tokens num_tokens tokens_used token_count tokenCount token_limit tokenizer TOKENIZER
    subtoken decide author author_id monkey keyword keywords key primary_key sort_key session sessions
    public_key compass passenger bypass secretary cookiecutter forbearer hotpot option idea
"""


def test_names_of_secrets() -> None:
    assert [name for name in SECRETS.split() if not _SECRET.search(name)] == []
    assert [name for name in PLAIN.split() if _SECRET.search(name)] == []


def test_what_looks_like_a_secret() -> None:
    kit = WorkerKit(url=NOWHERE, hooks=[])

    @kit.memoize("1h")
    def login(user: str, db_password: str) -> None: ...

    @kit.memoize("1h")
    def fetch(API_KEY: str) -> None: ...  # noqa: N803 - that is the test

    @kit.memoize("1h")
    def count(tokenizer: str, subtoken: str) -> None: ...

    for function, name in ((login, "db_password"), (fetch, "API_KEY")):
        with pytest.raises(DefinitionError, match=f"{name} looks like a secret"):
            kit.warmups.demands.record(function.memo.function, "w")
        assert function.memo.function.note is None
    kit.warmups.demands.record(count.memo.function, "w")
    assert count.memo.function.note is not None

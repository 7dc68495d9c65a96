"""A limiter on a real server whose clock the test sets, and brute-force checkers of what it promises.

The checkers know every admitted call and the moment it was made, by a clock that nobody sets. They share no idea with
the scripts but the promise.
"""

from __future__ import annotations

import functools
import itertools
from contextlib import contextmanager

from workerkit.core.call import Call, as_is
from workerkit.core.events import Hooks
from workerkit.core.keys import Keys
from workerkit.core.lua import Script
from workerkit.core.rates import Rate, parse_rate
from workerkit.errors import OutcomeUnknown, StoreUnavailable
from workerkit.io.address import parse_address
from workerkit.io.runner import Runner
from workerkit.io.server import PoolOptions, Server
from workerkit.limits.definition import Definition
from workerkit.limits.headers import Advice
from workerkit.limits.limiter import LimitPolicy
from workerkit.limits.slots import Slots

KEYS = Keys("t", "g")
S = 1_000_000
START = 1_700_000_000 * S
# What `gap` ms do to expiries. A key without one would stay for ever.
AGE = """
local gap = tonumber(ARGV[1])
for _, key in ipairs(redis.call('KEYS', '*')) do
  local left = redis.call('PTTL', key)
  if left == -1 then
    return redis.error_reply('ERR no TTL: ' .. key)
  elseif left <= gap then
    redis.call('DEL', key)
  else
    redis.call('PEXPIRE', key, left - gap)
  end
end
"""
CLOCK = "local now_us = tonumber(ARGV[#ARGV])\n"


@functools.cache
def clocked(script):
    """The same script, told the time by its last argument."""
    replaced = {**script._replace, "not_after": CLOCK, "now": CLOCK}
    return Script(script.package, script.name, replace=replaced)


@contextmanager
def runner_on(url):
    server = Server("guard", parse_address(url, what="url"), options=PoolOptions(), hooks=Hooks())
    runner = Runner({"guard": server}, 10.0)
    try:
        yield runner
    finally:
        runner.close()


class World:
    """An empty server, and its clock: `now` is what it says, `true` what time it really is."""

    def __init__(self, runner):
        self.runner = runner
        self.now = self.true = START
        self.command("FLUSHALL")

    def command(self, *words):
        return self.runner.call(Call("command", "guard", as_is, args=words))

    def run(self, call):
        if call.script is None:
            return self.runner.call(call)
        script = clocked(call.script)
        return self.runner.call(
            Call(call.name, "guard", call.parse, script=script, keys=call.keys, args=(*call.args, self.now))
        )

    def flow(self, flow):
        """Run a Flow of Calls."""
        try:
            step = next(flow)
            while True:
                step = flow.send(self.run(step))
        except StopIteration as done:
            return done.value

    def wait(self, gap):
        """Time passes, in us; for expiries too."""
        ms = (self.true + gap) // 1000 - self.true // 1000
        self.now += gap
        self.true += gap
        if ms:
            self.command("EVAL", AGE, 0, ms)

    def set_clock(self, by):
        """The server's clock jumps; no time passes."""
        self.now += by

    def dump(self):
        """Every byte and every expiry there is."""
        keys = sorted(self.command("KEYS", "*"))
        return {key: (self.command("DUMP", key), self.command("PEXPIRETIME", key)) for key in keys}


class Act:
    """One admitted call: its real cost, when it was made (true us), and when it was over."""

    def __init__(self, at, cost, end=None, real=None):
        self.at, self.cost, self.end, self.real = at, cost, end, real

    def __repr__(self):
        end = "" if self.end is None else f" to {(self.end - START) / S:.6f}"
        real = "" if self.real is None else f" really {self.real}"
        return f"{self.cost} at {(self.at - START) / S:.6f}{end}{real}"


class Limiter:
    """One definition in a World, and what it admitted, by key."""

    def __init__(self, world, *rates, **options):
        parsed = tuple(rate if isinstance(rate, Rate) else parse_rate(rate) for rate in rates)
        self.world, self.rates = world, parsed
        self.definition = Definition("api", parsed, **options)
        self.policy = LimitPolicy(self.definition)
        self.acts = {}
        self.tokens = itertools.count()

    def costs(self, cost, units):
        return self.definition.costs(cost, units)

    def admitted(self, key="k"):
        return self.acts.setdefault(key, [])

    def ask(self, cost=1, key="k", **units):
        """`try_acquire`."""
        decision = self.world.run(self.policy.acquire(KEYS, key, self.costs(cost, units)))
        if decision.allowed:
            self.admitted(key).append(Act(self.world.true, cost))
        return decision

    def wait(self, gap):
        self.world.wait(gap)

    def request(self, owner, cost=1, key="k", *, exact=False):
        """Ask as `owner`, who may have asked before."""
        call = self.policy.request(KEYS, key, self.costs(cost, {}), owner, exact=exact)
        return self.world.run(call).decision

    def peek(self, cost=1, key="k", **units):
        return self.world.run(self.policy.peek(KEYS, key, self.costs(cost, units)))

    def usage(self, key="k"):
        return self.world.run(self.policy.usage(KEYS, key))

    def _entering(self, cost, key, units, **options):
        return Slots(self.policy, KEYS, key).hold(self.costs(cost, units), f"o{next(self.tokens)}", **options)

    def enter(self, cost=1, key="k", *, exact=False, leased=True, **units):
        """A slot as `limiter.slot` takes it, without waiting; or the refusal."""
        slot = self.world.flow(self._entering(cost, key, units, exact=exact, leased=leased))
        return Held(self, slot, key, cost) if slot.decision.allowed else slot.decision

    def enter_in_vain(self, cost=1, key="k", *, executed, cleaned, exact=True, **units):
        """A slot whose answer got lost, after it was `executed` or before; and whether it could be `cleaned` up.

        Answers what was admitted, if anything.
        """
        flow = self._entering(cost, key, units, exact=exact)
        request = next(flow)
        answer = self.world.run(request) if executed else None
        cleanup = flow.throw(OutcomeUnknown("lost"))
        try:
            if cleaned:
                flow.send(self.world.run(cleanup))
            else:
                flow.throw(StoreUnavailable("lost"))
        except OutcomeUnknown:
            if answer is None or not answer.decision.allowed:
                return None
            self.admitted(key).append(Act(self.world.true, cost))
            return self.admitted(key)[-1]

    def reserve(self, cost=1, key="k", *, within):
        """A reservation and its act, or the refusal."""
        answer = self.world.flow(Slots(self.policy, KEYS, key).reserve(key, self.costs(cost, {}), within))
        if not answer.decision.allowed:
            return answer, None
        act = Act(self.world.true + us(answer.delay), cost)
        self.admitted(key).append(act)
        return answer, act

    def cancel(self, reservation):
        return self.world.run(self.policy.cancel(KEYS, reservation.key, reservation))

    def settle(self, stamp, cost, real, key="k"):
        """Settle a charge of calls."""
        return self.world.run(self.policy.settle(KEYS, key, (cost,) * len(self.rates), stamp, {"": real}))

    def learn(self, advice, key="k"):
        return self.world.run(self.policy.learn(KEYS, key, advice))

    def learn_nothing(self, key="k"):
        """Take in a response that says nothing: everything is written again."""
        return self.learn(Advice(0.0, False, (), ()), key)

    def configure(self, *rates, key="k", concurrency=None):
        return self.world.run(self.policy.configure(KEYS, key, tuple(map(parse_rate, rates)), concurrency))

    def reset(self, key="k"):
        return self.world.run(self.policy.reset(KEYS, key))

    def name(self, what="state", key="k"):
        """The name of one of the key's four."""
        return self.policy._keys(KEYS, key)[("state", "pause", "configured", "leases").index(what)]

    def lives_long_enough(self, key="k"):
        """Whether the state is there for as long as it says that something in it counts."""
        usage, left = self.usage(key), self.world.command("PTTL", self.name(key=key))
        return left >= max(each.reset_after for each in usage.rates) * 1000

    def bytes(self, key="k"):
        """Every byte there is under this key."""
        return [self.world.command("DUMP", each) for each in self.policy._keys(KEYS, key)]

    def stored(self, key="k"):
        """Every byte and every expiry there is under this key; to be compared before time passes."""
        return self.bytes(key), [self.world.command("PEXPIRETIME", each) for each in self.policy._keys(KEYS, key)]


class Held:
    """A slot that was admitted."""

    def __init__(self, limiter, slot, key, cost):
        self.limiter, self.slot, self.key = limiter, slot, key
        self.stamp, self.owner, self.decision = slot.stamp, slot.owner, slot.decision
        self.act = Act(limiter.world.true, cost)
        limiter.admitted(key).append(self.act)

    def renew(self):
        return self.limiter.world.run(self.limiter.policy.renew(KEYS, self.key, self.slot))

    def end(self, **real):
        """The slot ends; `cost=` or units say what was really used."""
        if real:
            self.slot.settle(**real)
            self.act.real = real.get("cost")
        call = self.limiter.policy.finish(KEYS, self.key, self.slot)
        if call is not None:
            return self.limiter.world.run(call)
        return None


def us(seconds):
    return round(seconds * S)


# The promises


def walk(limiter, trace, most, refused=lambda cost, key: None):
    """Ask as `trace` says, at most for `most`. A refusal writes nothing, and its wait is neither short nor long.

    `refused` looks at each refusal, too.
    """
    for gap, wish, key, waits in trace:
        limiter.wait(gap)
        cost = min(wish, most)
        before = limiter.stored(key)
        decision = limiter.ask(cost, key)
        if decision.allowed:
            assert limiter.lives_long_enough(key)
            continue
        assert limiter.stored(key) == before, "a refusal changed something"
        refused(cost, key)
        assert decision.bound_by in {str(rate) for rate in limiter.rates}
        if waits:
            limiter.wait(us(decision.retry_after) - 1)
            assert not limiter.peek(cost, key).allowed, "retry_after was too long"
            limiter.wait(1)
            assert limiter.ask(cost, key).allowed, "retry_after was too short"


def most_in_any(acts, period):
    """The largest sum of costs in any half-open window [t, t + period); those that start at a call suffice."""
    acts, most, total, old = sorted((act.at, act.cost) for act in acts), 0, 0, 0
    for at, cost in acts:
        total += cost
        while acts[old][0] + period <= at:
            total -= acts[old][1]
            old += 1
        most = max(most, total)
    return most


def most_in_a_clock_window(acts, period):
    """The largest sum of costs in [n * period, (n + 1) * period)."""
    sums = {}
    for act in acts:
        sums[act.at // period] = sums.get(act.at // period, 0) + act.cost
    return max(sums.values(), default=0)


def worst_burst(acts, limit, period):
    """By how much, in calls, a window [s, t] of any length exceeds limit/period * (t - s): never above the burst.

    Answered times `period`, so that it is exact.
    """
    acts = sorted((act.at, act.cost) for act in acts)
    worst = 0
    for first, (start, _) in enumerate(acts):
        total = 0
        for at, cost in acts[first:]:
            total += cost
            worst = max(worst, total * period - limit * (at - start))
    return worst


def most_at_once(acts, period):
    """The largest sum of what counts at one moment: of each call its cost from its beginning to its end (None: it has
    not ended), and what it really used for a period longer."""
    edges = []
    for act in acts:
        real = act.cost if act.real is None else act.real
        edges.append((act.at, 1, act.cost))
        if act.end is not None:
            edges += [(act.end, 0, real - act.cost), (act.end + period, 0, -real)]
    return max(itertools.accumulate(change for _, _, change in sorted(edges)), default=0)

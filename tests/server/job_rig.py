"""Job scripts on a real server whose clock the test sets: nothing is waited for."""

from __future__ import annotations

import functools
from typing import Any

from workerkit.core.call import Call
from workerkit.core.lua import Script

START, S = 1_700_000_000_000_000, 1_000_000  # us
CLOCK = "local now_us = tonumber(redis.call('GET', 'clock'))\n"
# What `gap` ms do to expiries. A key without one would stay for ever.
AGE = """
for _, key in ipairs(redis.call('KEYS', 'wk:*')) do
  local left = redis.call('PTTL', key)
  if left == -1 then
    return redis.error_reply('ERR no TTL: ' .. key)
  elseif left <= tonumber(ARGV[1]) then
    redis.call('DEL', key)
  else
    redis.call('PEXPIRE', key, left - ARGV[1])
  end
end
"""


@functools.cache
def clocked(script: Script) -> Script:
    """The same script, told the time by the key `clock`."""
    return Script(script.package, script.name, replace={"not_after": CLOCK, "now": CLOCK})


class World:
    """An empty server and its clock."""

    def __init__(self, runner: Any) -> None:
        self.runner = runner
        self.now = START
        self.command("FLUSHALL")
        self.command("SET", "clock", START)

    def command(self, *words: Any) -> Any:
        return self.runner.call(Call("command", "guard", lambda reply: reply, args=words))

    def run(self, call: Call[Any]) -> Any:
        if call.script is None:
            return self.runner.call(call)
        script = clocked(call.script)
        return self.runner.call(Call(call.name, "guard", call.parse, script=script, keys=call.keys, args=call.args))

    def flow(self, flow: Any) -> Any:
        """Run a Flow of Calls."""
        try:
            step = next(flow)
            while True:
                step = flow.send(self.run(step))
        except StopIteration as done:
            return done.value

    def wait(self, seconds: float) -> None:
        """Time passes, for expiries too."""
        self.now += round(seconds * S)
        self.command("SET", "clock", self.now)
        if seconds >= 0.001:
            self.command("EVAL", AGE, 0, int(seconds * 1000))

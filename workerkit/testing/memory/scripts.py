"""Lua scripts: the real files of workerkit, under the Lua 5.1 that Redis has too.

Python's part ends at the strings, numbers and tables of Lua; what is arithmetic in a script is done by Lua itself.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from workerkit.errors import DefinitionError
from workerkit.testing.memory import packing
from workerkit.testing.memory.commands.registry import perform
from workerkit.testing.memory.replies import Refused, Reply, Status, for_script, written

if TYPE_CHECKING:
    from workerkit.testing.memory.store import Store

# What a script finds, and how it is run: as on a server it may neither make nor miss a global, and an error reply
# of a command ends it unless it said `redis.pcall`.
_HOST = """
local command, decode, pack, unpack_, size, sha1hex = ...
local null = newproxy()
local function named(library, has)
  return setmetatable(has, {__index = function(_, name)
    error("workerkit's memory has no " .. library .. '.' .. tostring(name), 2)
  end})
end
local function checked(ok, ...)
  if not ok then error({err = (...)}, 0) end
  return ...
end
local function valid(ok, ...)
  if not ok then error((...), 3) end
  return ...
end
local function caught(ok, ...)
  local problem = ...
  if not ok and type(problem) == 'table' and problem.err then return false, problem.err end
  return ok, ...
end
local env = {
  string = string, table = table, math = math, assert = assert, error = error, getmetatable = getmetatable,
  ipairs = ipairs, next = next, pairs = pairs, rawequal = rawequal, rawget = rawget, rawset = rawset,
  select = select, setmetatable = setmetatable, tonumber = tonumber, tostring = tostring, type = type,
  unpack = unpack, xpcall = xpcall, pcall = function(...) return caught(pcall(...)) end,
  redis = named('redis', {
    call = function(...) return checked(command(...)) end,
    pcall = function(...)
      local ok, reply = command(...)
      if ok then return reply end
      return {err = reply}
    end,
    error_reply = function(text) return {err = string.gsub(text, '^-', '')} end,
    status_reply = function(text) return {ok = text} end,
    sha1hex = sha1hex, log = function() end, LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
  }),
  cjson = named('cjson', {decode = function(text) return valid(decode(text, null)) end, null = null}),
  struct = named('struct', {
    pack = function(...) return valid(pack(...)) end,
    unpack = function(...) return valid(unpack_(...)) end,
    size = function(...) return valid(size(...)) end,
  }),
  cmsgpack = named('cmsgpack', {}),
  bit = named('bit', {}),
}
env.server = env.redis
env._G = env
setmetatable(env, {
  __newindex = function(_, name)
    error("Script attempted to create global variable '" .. tostring(name) .. "'", 2)
  end,
  __index = function(_, name)
    error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
  end,
})
local function compile(source)
  local chunk, problem = loadstring(source, '@user_script')
  if chunk then setfenv(chunk, env) end
  return chunk, problem
end
local function run(chunk, keys, argv)
  rawset(env, 'KEYS', keys)
  rawset(env, 'ARGV', argv)
  return pcall(chunk)
end
return compile, run
"""


class Scripts:
    """The scripts that one store knows, and the Lua that runs them."""

    def __init__(self, store: Store) -> None:
        try:
            from lupa import lua51
        except ImportError:
            raise DefinitionError("the memory runs scripts on lupa: pip install 'workerkit[testing]'") from None
        self._store = store
        self._lua = lua51.LuaRuntime(
            encoding=None, unpack_returned_tuples=True, register_eval=False, register_builtins=False
        )
        self._kind = lua51.lua_type
        self._chunks: dict[bytes, Any] = {}
        self._compile, self._run = self._lua.execute(
            _HOST.encode(),
            self._command,
            _guarded(self._decode),
            _guarded(packing.pack),
            _guarded(packing.unpack, many=True),
            _guarded(packing.size),
            lambda text: hashlib.sha1(text, usedforsecurity=False).hexdigest().encode(),
        )

    def load(self, source: bytes) -> bytes:
        """Compile a script; answers its digest. Raises Refused."""
        digest = hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
        if digest not in self._chunks:
            chunk, problem = self._compile(source)
            if chunk is None:
                raise Refused(f"ERR Error compiling script (new function): {_text(problem)}")
            self._chunks[digest] = chunk
        return digest

    def knows(self, digest: bytes) -> bool:
        return digest.lower() in self._chunks

    def forget(self) -> None:
        self._chunks.clear()

    def run(self, digest: bytes, keys: Sequence[bytes], argv: Sequence[bytes]) -> Reply:
        """Run a script that is known; answers what it returned. Raises Refused."""
        table = self._lua.table_from
        answer = self._run(self._chunks[digest.lower()], table(keys), table(argv))
        ok, result = answer[:2] if isinstance(answer, tuple) else (answer, None)
        if ok:
            reply = self._reply(result)
            if isinstance(reply, Refused):
                raise reply
            return reply
        if self._kind(result) == "table":
            raise Refused(_text(result[b"err"]))
        raise Refused(f"ERR {_text(result)} script: {_text(digest)}")

    def _command(self, *words: Any) -> tuple[bool, Any]:
        """`redis.call`: whether it went well, and the reply or what the error says."""
        try:
            return True, self._lua_value(perform(self._store, [_word(each) for each in words], in_script=True))
        except Refused as refused:
            return False, str(refused).encode()

    def _lua_value(self, reply: Reply) -> Any:
        if reply is None:
            return False
        if isinstance(reply, Status):
            return self._lua.table_from({b"ok": bytes(reply)})
        if type(reply) in {bytes, int}:
            return reply
        plain = for_script(reply)
        if not isinstance(plain, list):
            return plain
        return self._lua.table_from([self._lua_value(each) for each in plain])

    def _reply(self, value: Any) -> Reply:
        """What a script returned: numbers lose what is behind the point, a table ends before its first nil."""
        if value is None or isinstance(value, bool):
            return 1 if value else None
        if isinstance(value, bytes):
            return value
        if isinstance(value, int | float):
            return int(value) if math.isfinite(value) and abs(value) < 2**63 else -(2**63)
        if self._kind(value) != "table":
            return None
        if isinstance(value[b"err"], bytes):
            return Refused(_text(value[b"err"]))
        if isinstance(value[b"ok"], bytes):
            return Status(value[b"ok"])
        found, at = [], 1
        while (each := value[at]) is not None:
            found.append(self._reply(each))
            at += 1
        return found

    def _decode(self, text: bytes, null: Any) -> Any:
        try:
            return self._json(json.loads(text, parse_int=float), null)
        except ValueError as error:
            raise Refused(f"cjson.decode: {error}") from None

    def _json(self, value: Any, null: Any) -> Any:
        if value is None:
            return null
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, list):
            return self._lua.table_from([self._json(each, null) for each in value])
        if isinstance(value, dict):
            return self._lua.table_from({name.encode(): self._json(each, null) for name, each in value.items()})
        return value


def _guarded(act: Callable[..., Any], *, many: bool = False) -> Callable[..., tuple[Any, ...]]:
    """For Lua's `checked`: True and what `act` answers, or False and what it says against it."""

    def call(*words: Any) -> tuple[Any, ...]:
        try:
            found = act(*words)
        except Refused as refused:
            return False, str(refused).encode()
        return (True, *found) if many else (True, found)

    return call


def _word(given: Any) -> bytes:
    """An argument of `redis.call`."""
    if isinstance(given, bytes):
        return given
    if isinstance(given, int | float) and not isinstance(given, bool):
        return written(float(given))
    raise Refused("ERR Command arguments must be strings or integers")


def _text(said: bytes) -> str:
    return said.decode("utf-8", "backslashreplace") if isinstance(said, bytes) else str(said)

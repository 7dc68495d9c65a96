"""The one grammar of Redis keys: `{namespace}:{kind}:{name}:{part}`, the hash tag in braces.

Kinds: `c` cache, `g` limits and leases, `j` jobs, `s` sessions, `w` the waitlist, `h` warming, `t` run times. All keys
of one script share one hash tag, so they live in one slot of a cluster. Text from outside is either escaped or a
digest, so that no separator, brace or newline in it can steer a key.
"""

from __future__ import annotations

import re
from hashlib import blake2b

from workerkit.errors import DefinitionError

_UNSAFE = re.compile(r"[^A-Za-z0-9_.@-]")
_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,32}")
_LONGEST = 80


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))


def escape(text: str) -> str:
    """`text` as a key part: injective, readable where it can be, bounded in length."""
    safe = _UNSAFE.sub(_percent, text)
    if 0 < len(safe) <= _LONGEST:
        return safe
    # "~" is never left unescaped above, so a digest cannot be mistaken for a name.
    return "~" + blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def checked_namespace(text: str) -> str:
    if not _NAMESPACE.fullmatch(text):
        raise DefinitionError(
            f"namespace {text!r} will not do: use 1 to 32 letters, digits, '.', '_' or '-', such as namespace='shop'"
        )
    return text


class Keys:
    """Makes the keys of one kind: `Keys("wk", "c").key("profile", "ab12", "v")` is `wk:c:{profile:ab12}:v`."""

    __slots__ = ("_prefix",)

    def __init__(self, namespace: str, kind: str) -> None:
        self._prefix = f"{checked_namespace(namespace)}:{kind}:"

    def key(self, name: str, part: str, suffix: str) -> str:
        """A key of the slot that `name` and `part` (already safe: escaped, or a digest) choose."""
        return f"{self._prefix}{{{name}:{part}}}:{suffix}"

    def prefix(self, name: str) -> str:
        """What all keys of one name begin with."""
        return f"{self._prefix}{{{name}:"

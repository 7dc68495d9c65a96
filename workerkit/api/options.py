"""The options of `kit.memoize`, checked where they are written."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any, Literal

from workerkit.cache.failures import Failures
from workerkit.cache.local import L1
from workerkit.core.durations import Duration, seconds
from workerkit.errors import DefinitionError

Ttl = Duration | Callable[[Any], Duration | None]
Refresh = Literal["inline", "queue"]
Text = str | Callable[..., object]


class Options:
    """The checked options of one memoized function; what is None is a setting's to say."""

    def __init__(
        self,
        ttl: Ttl,
        *,
        stale: Duration | None = None,
        stale_if_error: Duration | None = None,
        tags: Iterable[Text] = (),
        key: Text | None = None,
        ignore: Iterable[str] = (),
        version: str | int = "",
        negative: Mapping[type[Exception], Duration] | None = None,
        l1: bool | L1 = False,
        refresh: Refresh = "inline",
        wait: Duration | None = None,
        lease: Duration | None = None,
        early: float | None = None,
        jitter: float | None = None,
        codec: str | None = None,
        max_bytes: int | None = None,
    ) -> None:
        _refuse_contradictions(ttl, key, ignore, tags, refresh, stale, l1)
        self.ttl = ttl if callable(ttl) else seconds(ttl, what="memoize: ttl")
        self.stale = _seconds(stale, "stale") or 0.0
        self.stale_if_error = _seconds(stale_if_error, "stale_if_error") or 0.0
        self.tags = tuple(tags)
        self.key = key
        self.ignore = ignore
        self.version = str(version)
        self.failures = Failures(negative)
        self.l1 = L1() if l1 is True else l1 or None
        self.refresh = refresh
        self.wait = _seconds(wait, "wait")
        self.lease = _seconds(lease, "lease")
        self.early = None if early is None else fraction(early, "memoize: early", most=None)
        self.jitter = None if jitter is None else fraction(jitter, "memoize: jitter")
        self.codec = codec
        if max_bytes is not None and (type(max_bytes) is not int or max_bytes < 1):
            raise DefinitionError(f"memoize: max_bytes is a number of bytes, 1 at least, not {max_bytes!r}")
        self.max_bytes = max_bytes

    def life(self, jitter: float) -> Callable[[Any], float | None]:
        """How many seconds a result is fresh, with up to the share `jitter` taken off at random."""
        ttl = self.ttl

        def of_result(value: Any) -> float | None:
            if not callable(ttl):
                life = ttl
            else:
                said = ttl(value)
                if said is None:
                    return None
                life = seconds(said, what="memoize: ttl(result)")
            return life * (1.0 - jitter * random.random())  # noqa: S311 - spreads expiries, hides nothing

        return of_result


def _refuse_contradictions(
    ttl: Any, key: Any, ignore: Iterable[str], tags: Any, refresh: str, stale: Duration | None, l1: Any
) -> None:
    """Raise DefinitionError for options that say nothing, or what another denies."""
    if ttl is None:
        raise DefinitionError('memoize: ttl=None would keep nothing; write a duration, such as ttl="10m"')
    if key is not None and tuple(ignore):
        raise DefinitionError("memoize: key= already says which arguments count; leave ignore= out")
    if isinstance(tags, str) or callable(tags):
        shown = repr(tags) if isinstance(tags, str) else "lambda ...: ..."
        raise DefinitionError(f"memoize: tags is a list of templates or callables: write tags=[{shown}]")
    if refresh not in ("inline", "queue"):
        raise DefinitionError(f"memoize: refresh is 'inline' or 'queue', not {refresh!r}")
    if refresh == "queue" and stale is None:
        raise DefinitionError("memoize: refresh='queue' serves the old value meanwhile; say for how long with stale=")
    if not isinstance(l1, (bool, L1)):
        raise DefinitionError("memoize: l1 is True, or L1(size=..., ttl=...) from workerkit")


def fraction(value: Any, what: str, *, most: float | None = 1.0) -> float:
    """A number from 0 up to (not with) `most`; raises DefinitionError."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value) and value >= 0
    if not good or (most is not None and value >= most):
        bound = "of at least 0" if most is None else f"from 0 up to, but not, {most:g}"
        raise DefinitionError(f"{what} is a number {bound}, not {value!r}")
    return float(value)


def _seconds(value: Duration | None, name: str) -> float | None:
    return None if value is None else seconds(value, what=f"memoize: {name}")

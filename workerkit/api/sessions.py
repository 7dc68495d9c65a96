"""`kit.sessions`: server-side sessions for web applications, to OWASP's rules."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from pydantic import BaseModel

from workerkit.api.engine import Engine
from workerkit.core.durations import Duration
from workerkit.core.flow import Flow
from workerkit.jobs.sessions import Changes, SessionInfo, SessionStore, checked_name, dumped, loaded

IDLE: Duration = "30m"
ABSOLUTE: Duration = "12h"


class Session:
    """A session that was opened by its id. Each verb is one atomic write that uses it; `.aio` has the same, awaited.

    `id` is the secret that a cookie holds: never log it, but `ref`, which names the session and opens nothing.
    `owner`, `created` (seconds since 1970, by the server's clock), `expires_in` (seconds, if it is not used until
    then) and `data` (a dict of JSON values) are as last known here.

    The verbs raise SessionGone when the session has expired, was revoked or has another id by now: then nothing was
    written. When Redis is down they raise StoreUnavailable, or OutcomeUnknown when an answer was lost.
    """

    __slots__ = ("_engine", "_store", "created", "data", "expires_in", "id", "owner", "ref")

    def __init__(self, engine: Engine, store: SessionStore, session_id: str, info: SessionInfo) -> None:
        self._engine = engine
        self._store = store
        self.id = session_id
        self.ref = info.ref
        self.owner = info.owner
        self.created = info.created
        self.expires_in = info.expires_in
        self.data = info.data

    @property
    def aio(self) -> AioSession:
        """The same verbs as coroutines."""
        return AioSession(self, self._engine)

    def update(self, values: Mapping[str, object] | BaseModel | None = None, /, **more: object) -> None:
        """Set fields, others untouched, also those that another request sets at the same time.

        Raises CodecError for a value that JSON cannot hold, or when there would be more than 64 KiB of data,
        DefinitionError for a name that is no text, and as above; the session is as it was.
        """
        self._engine.runner.run(self.updating(values, more))

    def delete(self, *names: str) -> None:
        """Delete fields, others untouched; one that is not there is no error. Raises as above."""
        self._engine.runner.run(self.deleting(names))

    def updating(self, values: Mapping[str, object] | BaseModel | None, more: Mapping[str, object]) -> Flow[None]:
        fields = dumped(values) | dumped(more)
        self.expires_in = yield from self._store.changing(self.id, Changes(fields))
        self.data |= loaded(fields)

    def deleting(self, names: tuple[str, ...]) -> Flow[None]:
        once = tuple(dict.fromkeys(map(checked_name, names)))
        self.expires_in = yield from self._store.changing(self.id, Changes(deletes=once))
        for name in once:
            self.data.pop(name, None)

    def __repr__(self) -> str:
        return f"<Session {self.ref}>"


class AioSession:
    """`session.aio`: the same verbs, awaited."""

    def __init__(self, session: Session, engine: Engine) -> None:
        self._session = session
        self._engine = engine

    async def update(self, values: Mapping[str, object] | BaseModel | None = None, /, **more: object) -> None:
        """As `Session.update`."""
        await self._engine.aio_runner.run(self._session.updating(values, more))

    async def delete(self, *names: str) -> None:
        """As `Session.delete`."""
        await self._engine.aio_runner.run(self._session.deleting(names))


class Sessions:
    """Creates, opens and ends sessions; they are in the guard store. When Redis is down every verb raises StoreError.

    An id that was not created here, has expired, was revoked or rotated, or is no id at all, is no session: it is never
    adopted. After a lost answer (OutcomeUnknown) a verb may have done its work.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @cached_property
    def aio(self) -> AioSessions:
        """The same verbs as coroutines."""
        return AioSessions(self._engine, self)

    def create(
        self,
        data: Mapping[str, object] | BaseModel | None = None,
        *,
        owner: str | None = None,
        idle: Duration = IDLE,
        absolute: Duration = ABSOLUTE,
    ) -> Session:
        """A new session under a new random id, with `data` (JSON values by name).

        It ends when it was not used for `idle`, and `absolute` after its creation whatever happens: seconds, or text
        such as "30m". `owner` is who `list` and `revoke_all` know it by.

        Raises DefinitionError for an owner or durations that will not do, CodecError for data that JSON cannot hold or
        that take more than 64 KiB.
        """
        return self._engine.runner.run(self.creating(data, owner, idle, absolute))

    def load(self, session_id: str | None) -> Session | None:
        """The session of that id, whose idle time begins anew; None when there is none."""
        return self._engine.runner.run(self.loading(session_id))

    def peek(self, session_id: str | None) -> Session | None:
        """The same, but the idle time goes on: for what is not the user's doing, such as a page that polls."""
        return self._engine.runner.run(self.peeking(session_id))

    def touch(self, session_id: str | None) -> bool:
        """Begin the idle time anew without reading; whether there is such a session."""
        return self._engine.runner.run(self.store.touching(session_id))

    def rotate(self, session_id: str | None, *, owner: str | None = None) -> str:
        """Give a session a new id and answer it: at each login and change of privilege, against fixation.

        The old id is dead at once; data, `ref` and the absolute end stay. With `owner` the session becomes that
        owner's.

        Raises SessionGone when there is no such session, DefinitionError when it is another owner's already. After a
        lost answer (OutcomeUnknown) the old id may be dead and the new one is not known: the user begins again.
        """
        return self._engine.runner.run(self.store.rotating(session_id, owner))

    def revoke(self, session_id: str | None) -> bool:
        """End a session; whether there was one of that id."""
        return self._engine.runner.run(self.store.revoking(session_id))

    def revoke_one(self, owner: str, ref: str) -> bool:
        """End the session of that `ref` if it is `owner`'s; whether it was. Nobody ends another's by guessing."""
        return self._engine.runner.run(self.store.revoking_one(owner, ref))

    def revoke_all(self, owner: str, *, keep: str | None = None) -> int:
        """End all sessions of `owner`, but the one whose `ref` is `keep`; how many.

        All that were created before are ended. One that is being created meanwhile may live on, and is then listed.
        After a StoreError some may be left: call again.
        """
        return self._engine.runner.run(self.store.revoking_all(owner, keep))

    def list(self, owner: str) -> list[SessionInfo]:
        """The living sessions of `owner`, newest first, without their ids; none of them is used by it."""
        return self._engine.runner.run(self.store.listing(owner))

    def creating(
        self, data: Mapping[str, object] | BaseModel | None, owner: str | None, idle: Duration, absolute: Duration
    ) -> Flow[Session]:
        session_id, info = yield from self.store.creating(data, owner, idle, absolute)
        return Session(self._engine, self.store, session_id, info)

    def loading(self, session_id: str | None) -> Flow[Session | None]:
        return self._opened(session_id, (yield from self.store.loading(session_id)))

    def peeking(self, session_id: str | None) -> Flow[Session | None]:
        return self._opened(session_id, (yield from self.store.peeking(session_id)))

    @cached_property
    def store(self) -> SessionStore:
        return SessionStore(self._engine.keys("s"), self._engine.digest)

    def _opened(self, session_id: str | None, info: SessionInfo | None) -> Session | None:
        return Session(self._engine, self.store, str(session_id), info) if info else None


class AioSessions:
    """`kit.sessions.aio`: the same verbs, awaited."""

    def __init__(self, engine: Engine, sessions: Sessions) -> None:
        self._engine = engine
        self._sessions = sessions

    async def create(
        self,
        data: Mapping[str, object] | BaseModel | None = None,
        *,
        owner: str | None = None,
        idle: Duration = IDLE,
        absolute: Duration = ABSOLUTE,
    ) -> Session:
        """As `Sessions.create`."""
        return await self._engine.aio_runner.run(self._sessions.creating(data, owner, idle, absolute))

    async def load(self, session_id: str | None) -> Session | None:
        """As `Sessions.load`."""
        return await self._engine.aio_runner.run(self._sessions.loading(session_id))

    async def peek(self, session_id: str | None) -> Session | None:
        """As `Sessions.peek`."""
        return await self._engine.aio_runner.run(self._sessions.peeking(session_id))

    async def touch(self, session_id: str | None) -> bool:
        """As `Sessions.touch`."""
        return await self._engine.aio_runner.run(self._sessions.store.touching(session_id))

    async def rotate(self, session_id: str | None, *, owner: str | None = None) -> str:
        """As `Sessions.rotate`."""
        return await self._engine.aio_runner.run(self._sessions.store.rotating(session_id, owner))

    async def revoke(self, session_id: str | None) -> bool:
        """As `Sessions.revoke`."""
        return await self._engine.aio_runner.run(self._sessions.store.revoking(session_id))

    async def revoke_one(self, owner: str, ref: str) -> bool:
        """As `Sessions.revoke_one`."""
        return await self._engine.aio_runner.run(self._sessions.store.revoking_one(owner, ref))

    async def revoke_all(self, owner: str, *, keep: str | None = None) -> int:
        """As `Sessions.revoke_all`."""
        return await self._engine.aio_runner.run(self._sessions.store.revoking_all(owner, keep))

    async def list(self, owner: str) -> list[SessionInfo]:
        """As `Sessions.list`."""
        return await self._engine.aio_runner.run(self._sessions.store.listing(owner))

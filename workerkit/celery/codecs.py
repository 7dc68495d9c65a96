"""Codecs on the serializers of kombu's registry: msgpack, yaml, what a user registered, and pickle for who names it.

The definition's name alone chooses the decoder: content type and encoding are the registry's for that name, and kombu
is told to accept no other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ClassVar, Final

from celery.exceptions import SoftTimeLimitExceeded
from kombu.exceptions import KombuError, SerializerNotInstalled
from kombu.serialization import dumps, loads, registry  # type: ignore[attr-defined]  # missing from the stubs
from pydantic_core import to_json

from workerkit.core.codec import FAILURES, Codec
from workerkit.errors import CodecError, DefinitionError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

KOMBU: Final = 2

_LIBRARIES = {"yaml": "PyYAML"}  # where the library is not called what the serializer is
_PROBE = {"probe": [None, True, 1, 0.5, "ä"]}
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def serializer_codec(name: str, annotation: Any = Any) -> SerializerCodec:
    """The codec of the serializer that kombu knows as `name`, for values of `annotation`.

    Raises DefinitionError for a name that is not registered, a library that is not installed, and a serializer that
    does not give back what it is given.
    """
    serializer = Serializer(name)
    return PickleCodec(serializer, annotation) if name == "pickle" else SerializerCodec(serializer, annotation)


class Serializer:
    """One entry of kombu's registry, tried once. What goes wrong afterwards is one of `FAILURES`."""

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or name not in registry.name_to_type:
            known = ", ".join(sorted(registry.name_to_type))
            raise DefinitionError(
                f"codec: kombu has no serializer {name!r}; there are: {known}; "
                "or register yours with kombu.serialization.register before this definition"
            )
        self.name = name
        try:
            self._content_type, self._encoding, _ = dumps(_PROBE, serializer=name)
            whole = self.decode(self.encode(_PROBE)) == _PROBE
        except SerializerNotInstalled:
            missing = _LIBRARIES.get(name, name)
            raise DefinitionError(f"codec={name!r} needs {missing}, which is missing: pip install {missing}") from None
        except (KombuError, *FAILURES) as error:
            raise DefinitionError(f"codec={name!r}: the serializer fails on {_PROBE}: {error!r}") from error
        if not whole:
            raise DefinitionError(f"codec={name!r}: the serializer does not give back what it was given, {_PROBE}")

    def encode(self, value: object) -> bytes:
        with _kombu():
            data: Any = dumps(value, serializer=self.name)[2]
        return data.encode(self._encoding) if isinstance(data, str) else bytes(data)

    def decode(self, data: bytes) -> Any:
        if not data:  # which kombu gives back as it is
            raise ValueError("nothing to decode")
        if self.name == "yaml":
            _refuse_references(data)
        with _kombu():
            return loads(data, self._content_type, self._encoding, accept={self._content_type})


class SerializerCodec(Codec):
    """Values typed by their annotation as in JSON, written by a serializer instead (YAML sorts the keys of dicts)."""

    id: ClassVar[int] = KOMBU

    def __init__(self, serializer: Serializer, annotation: Any = Any) -> None:
        super().__init__(annotation)
        self.format = serializer.name
        self._serializer = serializer

    def load(self, data: bytes) -> Any:
        """Read a value of the annotated type; `CodecError` when the bytes do not fit it."""
        try:
            text = to_json(self._serializer.decode(data))
        except FAILURES as error:
            raise CodecError(f"stored bytes are no {self._name} ({type(error).__name__})") from None
        # By way of JSON, because pydantic reads it by other rules than Python objects: a list may then be a tuple.
        return super().load(text)

    def _write(self, adapter: TypeAdapter[Any], value: object) -> bytes:
        plain = adapter.dump_python(value, mode="json", by_alias=False, round_trip=True, warnings=False)
        return self._serializer.encode(plain)

    def _read(self, adapter: TypeAdapter[Any], data: bytes) -> Any:
        return super()._read(adapter, to_json(self._serializer.decode(data)))

    def _error(self, value: object, reason: str, error: Exception | None = None) -> CodecError:
        return CodecError(f'{super()._error(value, reason, error)}, or use codec="json"')


class PickleCodec(SerializerCodec):
    """The Python object itself, whatever the annotation says; it must come back as its own type.

    Unpickling runs what was pickled: without a secret, whoever may write to the Redis may run code here.
    """

    def dump(self, value: object) -> bytes:
        """Write `value`; `CodecError` when it cannot be pickled, or not read back."""
        try:
            data = self._serializer.encode(value)
            faithful = type(self._serializer.decode(data)) is type(value)
        except FAILURES as error:
            raise self._error(value, "cannot be pickled and read back", error) from None
        if not faithful:
            raise self._error(value, "would not come back from pickle as its own type")
        return data

    def load(self, data: bytes) -> Any:
        """Unpickle; `CodecError` when the bytes are no pickle, or of what is not there any more."""
        try:
            return self._serializer.decode(data)
        except FAILURES as error:
            raise CodecError(f"stored bytes are no {self._name} ({type(error).__name__})") from None

    @cached_property
    def fingerprint(self) -> str:
        """8 hex digits of the JSON schema where the annotation has one, else of its name."""
        try:
            shape = Codec(self.annotation).fingerprint
        except DefinitionError:
            shape = _ADDRESS.sub("", repr(self.annotation))  # where an object lies says nothing about the type
        return blake2b(f"{self.format}:{shape}".encode(), digest_size=4).hexdigest()

    def _error(self, value: object, reason: str, error: Exception | None = None) -> CodecError:
        because = f" ({type(error).__name__})" if error else ""
        return CodecError(f"a {type(value).__qualname__} {reason}{because}; return plain data, or leave codec= out")


@contextmanager
def _kombu() -> Iterator[None]:
    """Undo kombu's wrapping of whatever a serializer raised: even the soft time limit, which must pass."""
    try:
        yield
    except KombuError as error:
        cause = error.__context__
        known = isinstance(cause, (SoftTimeLimitExceeded, *FAILURES))
        raise cause if known and cause else ValueError(type(cause or error).__name__) from None


def _refuse_references(data: bytes) -> None:
    """YAML can say one thing many times by reference, so that a small text becomes a huge value. We write none."""
    import yaml

    try:
        found = any(isinstance(token, yaml.AliasToken) for token in yaml.scan(data))
    except yaml.YAMLError as error:
        raise ValueError(type(error).__name__) from None
    if found:
        raise ValueError("the document has references")

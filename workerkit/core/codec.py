"""A value to JSON bytes and back, typed by a function's return annotation, so that a hit gives what a miss gave."""

from __future__ import annotations

import json
from functools import cached_property
from hashlib import blake2b
from math import isnan
from typing import TYPE_CHECKING, Any, ClassVar, Final

from workerkit.errors import CodecError, DefinitionError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

# A codec's id stands in every envelope; another codec takes another number.
JSON: Final = 1

# What serializers and validators raise. Not Exception: Celery's SoftTimeLimitExceeded is one, and must pass.
FAILURES = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError)


class Codec:
    """JSON for one annotation (`Any` for none); pydantic is imported and the adapter built at first use.

    `dump` reads back what it wrote and refuses a value that would return as something else: a tuple without an
    annotation, a subclass of the annotated model, a NaN that a model's own config writes as null. (A datetime keeps its
    instant and offset, not its zone's name; private attributes of models are not kept.) An annotation that pydantic
    cannot hold raises `DefinitionError` at first use.
    """

    id: ClassVar[int] = JSON
    format: str = "JSON"

    def __init__(self, annotation: Any = Any) -> None:
        if isinstance(annotation, str):
            raise DefinitionError(f"the annotation {annotation!r} is still text; resolve it with typing.get_type_hints")
        self.annotation = annotation

    def dump(self, value: object) -> bytes:
        """Write `value`; `CodecError` when it cannot be held or would come back as another value or type."""
        adapter = self._adapter
        try:
            data = self._write(adapter, value)
            back = self._read(adapter, data)
            faithful = _same(value, back)
        except FAILURES as error:
            raise self._error(value, f"cannot be written as {self.format} and read back", error) from None
        if not faithful:
            raise self._error(value, f"would not come back from {self.format} as it is")
        return data

    def load(self, data: bytes) -> Any:
        """Read a value of the annotated type; `CodecError` when the bytes do not fit it."""
        validate = self._validate
        try:
            return validate(data, by_alias=False, by_name=True)
        except FAILURES as error:
            # From None: pydantic's message quotes the input, which may be secret.
            raise CodecError(f"stored bytes are no {self._name} ({type(error).__name__})") from None

    @cached_property
    def fingerprint(self) -> str:
        """8 hex digits of the format and the JSON schema, docstrings left out: another shape, another fingerprint."""
        from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

        class Lenient(GenerateJsonSchema):
            def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
                return {"x-core": schema["type"]}  # a custom type without a schema still has a place in the shape

        schema = self._adapter.json_schema(by_alias=False, schema_generator=Lenient)
        text = json.dumps([self.format, _shape(schema)], sort_keys=True)
        return blake2b(text.encode(), digest_size=4).hexdigest()

    def _write(self, adapter: TypeAdapter[Any], value: object) -> bytes:
        return adapter.dump_json(value, by_alias=False, round_trip=True, warnings=False)

    def _read(self, adapter: TypeAdapter[Any], data: bytes) -> Any:
        return self._validate(data, by_alias=False, by_name=True)

    @cached_property
    def _validate(self) -> Any:
        # The validator itself: its adapter's method is a Python function that passes on seven arguments.
        return self._adapter.validator.validate_json

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        from pydantic import ConfigDict, PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError
        from pydantic import TypeAdapter as Adapter

        config = ConfigDict(ser_json_inf_nan="constants", ser_json_bytes="base64", val_json_bytes="base64")
        try:
            try:
                adapter = Adapter(self.annotation, config=config)
            except PydanticUserError as error:
                if error.code != "type-adapter-config-unused":  # models bring a config of their own
                    raise
                adapter = Adapter(self.annotation)
            adapter.rebuild(raise_errors=True)  # an unknown forward reference fails here, not at each call
        except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError) as error:
            why = str(error).partition("\n")[0]
            raise DefinitionError(
                f"values annotated {self._name} cannot be written as JSON; annotate a type that pydantic knows ({why})"
            ) from error
        return adapter

    @property
    def _name(self) -> str:
        return str(getattr(self.annotation, "__qualname__", self.annotation))

    def _error(self, value: object, reason: str, error: Exception | None = None) -> CodecError:
        because = f" ({type(error).__name__})" if error else ""
        if self.annotation is Any:
            advice = "annotate the return type of the function"
        else:
            advice = f"return exactly what the annotation {self._name} says, or annotate what is returned"
        return CodecError(f"a {type(value).__qualname__} {reason}{because}; {advice}")


def _same(value: Any, back: Any) -> bool:
    """Whether `back` is `value`, types included; a number may come back as the float it was annotated as."""
    kind = type(back)
    if type(value) is not kind:
        return kind is float and isinstance(value, (int, float)) and type(value) is not bool and bool(value == back)
    if kind is list or isinstance(back, tuple):
        return len(value) == len(back) and all(map(_same, value, back))
    if kind is dict:
        if [*value] != [*back] and value.keys() == back.keys():  # YAML sorts them
            own = {key: key for key in value}
            value = {own[key]: value[key] for key in back}
        return _same([*value], [*back]) and all(map(_same, value.values(), back.values()))
    if value is back or value == back or (kind is float and isnan(value) and isnan(back)):
        return True
    return _same_fields(value, back)


def _same_fields(value: Any, back: Any) -> bool:
    kind = type(back)
    fields = getattr(kind, "__pydantic_fields__", getattr(kind, "__dataclass_fields__", None))
    if fields is None:
        return False
    extra = getattr(value, "__pydantic_extra__", None), getattr(back, "__pydantic_extra__", None)
    return _same(*extra) and all(_same(getattr(value, name), getattr(back, name)) for name in fields)


def _shape(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_shape(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    # A property called "description" holds a dict, a docstring is text.
    return {name: _shape(each) for name, each in schema.items() if name != "description" or not isinstance(each, str)}

"""Frozen dataclasses of settings to TOML and back, with one sentence for each mistake."""

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from fractalkern.errors import InputError

Config = TypeVar("Config")


def to_toml(config: Any) -> str:
    """One `key = value` line for each field, in order."""
    fields = dataclasses.fields(config)
    return "".join(f"{field.name} = {_write(getattr(config, field.name))}\n" for field in fields)


def from_toml(base: Config, path: Path) -> Config:
    """`base` with the fields that the file at `path` names replaced.

    Raises:
        InputError: the file cannot be read, is not TOML, has a key that `base` lacks or a value of
            another type.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"config must be a readable file, but {path}: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"config must be TOML, but {path}: {error}") from error
    return dataclasses.replace(base, **_checked(type(base), values, path))  # type: ignore[type-var]


def require_within(config: Any, least: Mapping[str, int], most: Mapping[str, int]) -> None:
    """Raises unless the named fields are at least and at most these.

    Raises:
        InputError: one is not.
    """
    for name, smallest in least.items():
        if getattr(config, name) < smallest:
            raise InputError(f"{name} must be at least {smallest}, got {getattr(config, name)}")
    for name, largest in most.items():
        if getattr(config, name) > largest:
            raise InputError(f"{name} must be at most {largest:,}, got {getattr(config, name)}")


def _checked(cls: type, values: Mapping[str, object], path: Path) -> dict[str, object]:
    types = get_type_hints(cls)
    unknown = [key for key in values if key not in types]
    if unknown:
        raise InputError(
            f"config must have only the keys {', '.join(types)}, but {path} has "
            f"{', '.join(repr(key) for key in unknown)}"
        )
    return {key: _read(key, value, types[key]) for key, value in values.items()}


def _read(key: str, value: object, kind: Any) -> object:
    """`value` as a field of type `kind`: a bool, int, float, str, literal, or a tuple of such."""
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if len(kinds) == 2 and kinds[1] is Ellipsis:
            if not isinstance(value, list):
                raise InputError(f"{key} must be a list, got {value!r}")
            return tuple(_read(key, item, kinds[0]) for item in value)
        if not isinstance(value, list) or len(value) != len(kinds):
            raise InputError(f"{key} must be a list of {len(kinds)} values, got {value!r}")
        return tuple(_read(key, item, k) for item, k in zip(value, kinds, strict=True))
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise InputError(f"{key} must be one of {', '.join(get_args(kind))}, got {value!r}")
        return value
    accepted = (int, float) if kind is float else (kind,)
    # bool is a subclass of int, but `steps = true` is a mistake.
    if not isinstance(value, accepted) or isinstance(value, bool) != (kind is bool):
        raise InputError(f"{key} must be of type {kind.__name__}, got {value!r}")
    return kind(value)


def _write(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_write(item) for item in value)}]"
    # A JSON string or boolean is a TOML one; JSON has no infinities.
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else repr(value)

"""Every setting of a configuration, and the configuration with another value for one."""

from collections.abc import Iterator
from typing import Any, TypeVar, get_args

from pydantic import BaseModel

Config = TypeVar("Config", bound=BaseModel)

OTHER = {
    "dense.format": "int8",
    "augmentation.short_side": 256,
    "train.clip_norm": 1.0,
    "pixel_names.dilations": (2,),
    "validation.split": "test",
    "evaluate.background": ("rubbish",),
}
"""Settings whose other value does not follow from their type and their default."""


def setting_names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """`train.workers`: the names of all fields of a model and of its sections."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from setting_names(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def other_value(config: BaseModel, name: str) -> Any:
    """A valid value for a setting that is not the one that it has."""
    *sections, field = name.split(".")
    for section in sections:
        config = getattr(config, section)
    value, kind = getattr(config, field), type(config).model_fields[field].annotation
    if name in OTHER:
        return OTHER[name]
    if choices := [each for each in get_args(kind) if isinstance(each, str)]:
        return next(each for each in choices if each != value)
    return _other(value)


def _other(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value / 2 if value else 0.5
        case str():
            return f"other-{value}"
        case tuple():
            return tuple(each // 2 if isinstance(each, int) else each / 2 for each in value)
    raise AssertionError(f"no other value for {value!r} is known here: add it to OTHER")


def changed(config: Config, name: str) -> Config:
    """The configuration with another value for one setting."""
    values: dict[str, Any] = config.model_dump()
    *sections, field = name.split(".")
    inner = values
    for section in sections:
        inner = inner[section]
    inner[field] = other_value(config, name)
    return type(config).model_validate(values)

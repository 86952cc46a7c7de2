"""Reads a recipe from TOML, with the changes of --set, and writes it back; schema.py has the keys."""

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from pathlib import Path

from facelib.errors import FaceError, short_repr
from facelib.files import parse_toml, require_file
from facelib.training.recipe.rules import check_recipe
from facelib.training.recipe.schema import CHOICES, Recipe, Stage, recipe_keys
from facelib.wording import counted, did_you_mean

_MOST_SHOWN = 120  # characters of what was received


def load_recipe(path: Path, overrides: typing.Sequence[str] = ()) -> Recipe:
    """Reads a recipe.

    Args:
        path: TOML file.
        overrides: changes such as 'stage.0.epochs=2', as --set takes them.

    Raises:
        FaceError: no file, no TOML, an unknown key, a value of the wrong type or out of range.
    """
    values = _read(path, overrides)
    recipe = _build(Recipe, values, "", str(path))
    check_recipe(recipe, str(path))
    return recipe


def says_table(name: str, path: Path, overrides: typing.Sequence[str] = ()) -> bool:
    """Whether a recipe, or --set, says anything in the table `name`, so that its values are no mere defaults."""
    return bool(_read(path, overrides).get(name))


def _read(path: Path, overrides: typing.Sequence[str]) -> dict:
    path = require_file(path, "recipe")
    try:
        values = parse_toml(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise FaceError(f"A recipe must be a valid TOML file. '{path}' is not: {error}.") from error
    for override in overrides:
        _override(values, override)
    return values


def to_toml(recipe: Recipe) -> str:
    """The full recipe, defaults included, as TOML that `load_recipe` reads back to an equal one."""
    lines = _keys(recipe)
    for path, table in _tables(recipe):
        lines += ["", path, *_keys(table)]
    return "\n".join(lines) + "\n"


def differences(old: Recipe, new: Recipe) -> list[str]:
    """The keys in which two recipes differ, each as 'stage.0.epochs: 2 -> 3'."""
    before, after = flatten(old), flatten(new)
    return [
        f"{key}: {before.get(key)} -> {after.get(key)}" for key in before | after if before.get(key) != after.get(key)
    ]


def flatten(value, prefix: str = "") -> dict[str, typing.Any]:
    """The values of a recipe, or of a part of it, by key, such as 'stage.0.epochs'."""
    if dataclasses.is_dataclass(value):
        value = {key: getattr(value, name) for key, name in recipe_keys(value).items()}
    if not isinstance(value, dict | tuple | list):
        return {prefix: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {k: v for key, item in items for k, v in flatten(item, f"{prefix}.{key}" if prefix else str(key)).items()}


def _tables(recipe: Recipe) -> list[tuple[str, object]]:
    """Every table below the top, with its header."""
    tables = [("[teacher_io]", recipe.teacher_io), ("[model]", recipe.model), ("[data]", recipe.data)]
    tables += [("[data.augment]", recipe.data.augment), ("[train]", recipe.train)]
    return [*tables, *(("[[stage]]", stage) for stage in recipe.stage)]


def _keys(table) -> list[str]:
    """The lines of a table's own keys; a value of None is a key left out."""
    values = {key: getattr(table, name) for key, name in recipe_keys(table).items() if key != "stage"}
    is_key = {name: value is not None and not dataclasses.is_dataclass(value) for name, value in values.items()}
    return [f"{name} = {_toml(value)}" for name, value in values.items() if is_key[name]]


def _toml(value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace(
            "\x7f", "\\u007f"
        )  # a JSON string is a TOML string but for DEL
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value)


def _override(values: dict, text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals:
        raise FaceError(f"--set must be KEY=VALUE, such as stage.0.epochs=2. Received: {_cut(text)}.")
    try:
        parsed = parse_toml(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word is a string: --set model.activation=relu
    except ValueError as error:
        raise FaceError(f"--set needs a TOML value. Received: {_cut(text)}: {error}.") from error
    text = _cut(text)
    *parents, last = key.split(".")
    target = values
    for depth, part in enumerate(parents):
        _require_table(target, parents[:depth], text, can_be_list=True)
        if isinstance(target, list):
            if not (part.isdecimal() and len(part) < 10 and int(part) < len(target)):
                raise FaceError(
                    f"--set {text}: the recipe has {counted(len(target), 'stage')}, numbered from 0. "
                    f"Received: stage.{_cut(part)}."
                )
            target = target[int(part)]
        elif part == "stage" and depth == 0:
            target = target.setdefault("stage", [{}])
        else:
            target = target.setdefault(part, {})
    _require_table(target, parents, text, last)
    target[last] = parsed


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _require_table(target, parents: list[str], text: str, last: str = "", can_be_list: bool = False) -> None:
    if not isinstance(target, dict) and not (can_be_list and isinstance(target, list)):
        name = "stage.0." + (difflib.get_close_matches(last, recipe_keys(Stage), 1, 0.6) or ["epochs"])[0]
        raise FaceError(
            f"--set {text}: '{_cut('.'.join(parents))}' is not a table of keys. Pass a key, such as {name}=2."
        )


def _build(cls, values, prefix: str, source: str):
    if not isinstance(values, dict):
        raise FaceError(f"{source}: '{prefix.rstrip('.')}' must be a table. Received: {short_repr(values)}.")
    names, types_by_name = recipe_keys(cls), typing.get_type_hints(cls)
    hints = {key: types_by_name[name] for key, name in names.items()}
    for key in values:
        if key not in hints:
            near = _nearest_key(prefix, key[:_MOST_SHOWN], list(hints))
            raise FaceError(f"{source}: unknown key '{prefix}{_cut(key)}'. Did you mean '{near}'?")
    return cls(**{names[key]: _convert(hints[key], value, f"{prefix}{key}", source) for key, value in values.items()})


def _nearest_key(prefix: str, key: str, keys: list[str]) -> str:
    """The key that is meant: of the same name in another table, else the nearest of this table or of any."""
    everywhere = list(_every_key(Recipe, ""))
    elsewhere = [full for full in everywhere if full.split(".")[-1] == key]
    if elsewhere:
        return elsewhere[0]
    near = difflib.get_close_matches(key, keys, 1, 0.6)
    if not near:
        by_last = {full.split(".")[-1]: full for full in reversed(everywhere)}
        anywhere = difflib.get_close_matches(key, by_last, 1, 0.6)
        if anywhere:
            return by_last[anywhere[0]]
        near = difflib.get_close_matches(key, keys, 1, 0.0)
    return prefix + near[0]


def _every_key(cls, prefix: str) -> typing.Iterator[str]:
    """Every key of a table and of the tables in it: 'seed', 'model.width', 'stage.0.epochs'."""
    types_by_name = typing.get_type_hints(cls)
    for key, name in recipe_keys(cls).items():
        hint, full = types_by_name[name], f"{prefix}{key}"
        if dataclasses.is_dataclass(hint):
            yield from _every_key(hint, f"{full}.")
        elif key == "stage":
            yield from _every_key(Stage, f"{full}.0.")
        else:
            yield full


def _convert(hint, value, key: str, source: str):
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, f"{key}.", source)
    is_word_or_number = False
    if isinstance(hint, types.UnionType):  # float | None: absent is None, which TOML cannot say otherwise
        hints = typing.get_args(hint)
        is_word_or_number = set(hints) == {int, str}
        hint = str if is_word_or_number and type(value) is not hints[0] else hints[0]
    if isinstance(hint, types.GenericAlias):
        if not isinstance(value, list) or (not value and key == "stage"):
            raise FaceError(f"{source}: '{key}' must be a list of at least one item. Received: {short_repr(value)}.")
        return tuple(_convert(typing.get_args(hint)[0], item, f"{key}.{i}", source) for i, item in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    choices = CHOICES.get(key) or CHOICES.get(key.split(".")[-1])
    if type(value) is not hint:
        kind = f"a whole number or '{choices[0]}'" if is_word_or_number and choices else hint.__name__
        raise FaceError(f"{source}: '{key}' must be {kind}. Received: {short_repr(value)}.")
    if choices and hint is str and value not in choices:
        rule = f"{source}: '{key}' must be {'a whole number or ' * is_word_or_number}one of {', '.join(choices)}."
        raise FaceError(f"{rule} Received: '{_cut(value)}'.{did_you_mean(value, choices)}")
    return value

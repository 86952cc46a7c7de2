"""Training recipes: TOML read into frozen dataclasses, where an unknown key is an error that names the nearest."""

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path

from facelib.cli import FaceError
from facelib.files import require_file

BACKBONES = ("mobilefacenet", "my_mobilenet")
CHOICES = {
    "backbone": BACKBONES,
    "activation": ("prelu", "relu", "relu6", "leaky_relu"),
    "stem": ("paper", "separable"),
    "padding": ("same", "symmetric"),
    "shuffle": ("records", "blocks"),
    "precision": ("float32", "mixed_float16", "mixed_bfloat16"),
    "loss": ("arcface",),
    "past_pi": ("mirror", "linear", "none"),
    "optimizer": ("sgd", "adamw"),
    "schedule": ("cosine", "step"),
}


@dataclass(frozen=True)
class ModelConfig:
    """The embedder: a backbone and its options. `stem` is mobilefacenet's alone."""

    backbone: str = "mobilefacenet"
    embedding_size: int = 128
    activation: str = "prelu"
    stem: str = "paper"
    padding: str = "same"
    width: float = 1.0
    dropout: float = 0.0


@dataclass(frozen=True)
class DataConfig:
    """batch_size: images a step.   shuffle: 'records' (exact) or 'blocks' (slow disks).   flip: random mirror."""

    batch_size: int = 128
    shuffle: str = "records"
    flip: bool = True


@dataclass(frozen=True)
class StageConfig:
    """One stage of the schedule.

    epochs: passes over the data.   margin: radians, rising from 0 over margin_warmup_steps.   scale: logit radius.
    learning_rate: peak, reached after warmup_steps; then 'cosine' to final_learning_rate at the stage's end, or 'step':
    times lr_drop at each of lr_drop_epochs.   weight_decay: on kernels only, times last_layer_decay on the layers
    after the global operator and on the class centres.   clip_norm: of all gradients together; 0 for none.
    freeze_backbone: train the class centres alone.
    """

    loss: str = "arcface"
    epochs: int = 1
    margin: float = 0.5
    scale: float = 64.0
    margin_warmup_steps: int = 0
    past_pi: str = "mirror"
    optimizer: str = "sgd"
    momentum: float = 0.9
    learning_rate: float = 0.1
    warmup_steps: int = 0
    schedule: str = "cosine"
    final_learning_rate: float = 0.0
    lr_drop_epochs: tuple[float, ...] = ()
    lr_drop: float = 0.1
    weight_decay: float = 5e-4
    last_layer_decay: float = 10.0
    clip_norm: float = 5.0
    freeze_backbone: bool = False


@dataclass(frozen=True)
class Recipe:
    """A whole training. seed: of weights, order and augmentation.   deterministic: bitwise repeatable, on the CPU."""

    name: str = "unnamed"
    seed: int = 0
    precision: str = "float32"
    deterministic: bool = False
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    stage: tuple[StageConfig, ...] = (StageConfig(),)


def load_recipe(path: Path, overrides: typing.Sequence[str] = ()) -> Recipe:
    """Reads a recipe; `overrides` are 'stage.0.epochs=2' as --set takes them.

    Raises:
        FaceError: no file, no TOML, an unknown key, a value of the wrong type or out of its choices.
    """
    path = require_file(path, "recipe")
    try:
        values = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FaceError(f"A recipe is a TOML file. '{path}' is not: {error}.") from error
    for override in overrides:
        _override(values, override)
    recipe = _build(Recipe, values, "", str(path))
    _check(recipe, str(path))
    return recipe


def to_toml(recipe: Recipe) -> str:
    """The full recipe, defaults included, as TOML that `load_recipe` reads back to an equal one."""
    lines = [f"{f.name} = {_toml(getattr(recipe, f.name))}" for f in dataclasses.fields(recipe) if not _is_table(f)]
    tables = [("[model]", recipe.model), ("[data]", recipe.data), *(("[[stage]]", stage) for stage in recipe.stage)]
    for header, table in tables:
        lines += ["", header, *(f"{key} = {_toml(value)}" for key, value in dataclasses.asdict(table).items())]
    return "\n".join(lines) + "\n"


def differences(old: Recipe, new: Recipe) -> list[str]:
    """The keys in which two recipes differ, each as 'stage.0.epochs: 2 -> 3'."""
    before, after = _flat(dataclasses.asdict(old)), _flat(dataclasses.asdict(new))
    return [
        f"{key}: {before.get(key)} -> {after.get(key)}" for key in before | after if before.get(key) != after.get(key)
    ]


def _flat(value, prefix=""):
    if not isinstance(value, dict | tuple | list):
        return {prefix: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {k: v for key, item in items for k, v in _flat(item, f"{prefix}.{key}" if prefix else str(key)).items()}


def _is_table(f) -> bool:
    return f.name in ("model", "data", "stage")


def _toml(value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace(
            "\x7f", "\\u007f"
        )  # a JSON string is a TOML string but for DEL
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value)


def _override(values: dict, text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals:
        raise FaceError(f"--set takes KEY=VALUE, such as stage.0.epochs=2. Received: {text}.")
    try:
        parsed = tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word is a string: --set model.activation=relu
    *parents, last = key.split(".")
    target = values
    for depth, part in enumerate(parents):
        _require_table(target, parents[:depth], text, can_be_list=True)
        if isinstance(target, list):
            if not part.isdecimal() or int(part) >= len(target):
                raise FaceError(
                    f"--set {text}: there are {len(target)} stages, numbered from 0. Received: stage.{part}."
                )
            target = target[int(part)]
        elif part == "stage" and depth == 0:
            target = target.setdefault("stage", [{}])
        else:
            target = target.setdefault(part, {})
    _require_table(target, parents, text)
    target[last] = parsed


def _require_table(target, parents: list[str], text: str, can_be_list: bool = False) -> None:
    if not isinstance(target, dict) and not (can_be_list and isinstance(target, list)):
        raise FaceError(
            f"--set {text}: '{'.'.join(parents)}' is no table of keys. Name a key, such as stage.0.epochs=2."
        )


def _build(cls, values, prefix: str, source: str):
    if not isinstance(values, dict):
        raise FaceError(f"{source}: '{prefix.rstrip('.')}' must be a table. Received: {values!r}.")
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, 1, 0.0)[0]
            raise FaceError(f"{source}: unknown key '{prefix}{key}'. Did you mean '{prefix}{near}'?")
    return cls(**{key: _convert(hints[key], value, f"{prefix}{key}", source) for key, value in values.items()})


def _convert(hint, value, key: str, source: str):
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, f"{key}.", source)
    if isinstance(hint, types.GenericAlias):
        if not isinstance(value, list) or (not value and key == "stage"):
            raise FaceError(f"{source}: '{key}' must be a list of at least one item. Received: {value!r}.")
        return tuple(_convert(typing.get_args(hint)[0], item, f"{key}.{i}", source) for i, item in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not hint:
        raise FaceError(f"{source}: '{key}' must be {hint.__name__}. Received: {value!r}.")
    choices = CHOICES.get(key.split(".")[-1])
    if choices and value not in choices:
        raise FaceError(f"{source}: '{key}' is one of {', '.join(choices)}. Received: '{value}'.")
    return value


def _check(recipe: Recipe, source: str) -> None:
    rules = [(recipe.model.embedding_size >= 1, "model.embedding_size is at least 1", recipe.model.embedding_size)]
    rules += [(recipe.model.width > 0, "model.width is above 0", recipe.model.width)]
    rules += [(0 <= recipe.model.dropout < 1, "model.dropout is in [0, 1)", recipe.model.dropout)]
    rules += [(recipe.data.batch_size >= 2, "data.batch_size is at least 2", recipe.data.batch_size)]
    is_plain = Path(recipe.name).name == recipe.name and recipe.name not in ("", "..")
    rules += [(is_plain, "name is that of a folder in runs/", repr(recipe.name))]
    rules += [(recipe.seed >= 0, "seed is at least 0", recipe.seed)]
    for i, stage in enumerate(recipe.stage):
        rules += [
            (stage.epochs >= 1, f"stage.{i}.epochs is at least 1", stage.epochs),
            (0 <= stage.margin < 1.5708, f"stage.{i}.margin is in radians, in [0, pi/2)", stage.margin),
            (stage.scale > 0, f"stage.{i}.scale is above 0", stage.scale),
            (stage.learning_rate > 0, f"stage.{i}.learning_rate is above 0", stage.learning_rate),
            (0 <= stage.momentum < 1, f"stage.{i}.momentum is in [0, 1)", stage.momentum),
            (0 < stage.lr_drop <= 1, f"stage.{i}.lr_drop is in (0, 1]", stage.lr_drop),
            (
                0 <= stage.final_learning_rate <= stage.learning_rate,
                f"stage.{i}.final_learning_rate is from 0 to learning_rate",
                stage.final_learning_rate,
            ),
        ]
        at_least_0 = ("weight_decay", "last_layer_decay", "clip_norm", "warmup_steps", "margin_warmup_steps")
        for key in at_least_0:
            rules.append((getattr(stage, key) >= 0, f"stage.{i}.{key} is at least 0", getattr(stage, key)))
    for is_met, rule, received in rules:
        if not is_met:
            raise FaceError(f"{source}: {rule}. Received: {received}.")

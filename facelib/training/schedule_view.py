"""The schedule of a recipe before it is trained: a table, curves, and warnings about parts that have no effect."""

from collections.abc import Sequence

import numpy as np

from facelib.training.recipe.schema import Recipe, Stage
from facelib.training.schedules import learning_rate_at, margin_at, rate_warmup_steps, scale_at, warmup_steps
from facelib.wording import counted

HEADS = ("stage", "loss", "optimizer", "epochs", "steps", "learning rate", "margin", "scale")
CURVES = ("learning rate", "margin", "scale")
_POINTS = 400  # of a curve of a stage


def stage_rows(recipe: Recipe, steps: Sequence[int]) -> list[tuple[str, ...]]:
    """A row of `HEADS` for each stage.

    Args:
        recipe: the recipe.
        steps: steps per epoch, of each stage.
    """
    rows, first = [], 1
    for number, (stage, per_epoch) in enumerate(zip(recipe.stage, steps, strict=True)):
        last = stage.epochs * per_epoch
        curves = _curves(stage, per_epoch)
        shown = [_path(curves[name], last) for name in CURVES]
        rows.append((str(number), stage.loss, stage.optimizer_kind, str(stage.epochs), f"{first}-{first + last - 1}",
                     *shown))  # fmt: skip
        first += last
    return rows


def schedule_curves(recipe: Recipe, steps: Sequence[int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{name of `CURVES`: (steps of the training, values)}, float64; NaN where a stage has no such value.

    Args:
        recipe: the recipe.
        steps: steps per epoch, of each stage.
    """
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in CURVES}
    before = 0
    for stage, per_epoch in zip(recipe.stage, steps, strict=True):
        for name, points in _curves(stage, per_epoch).items():
            found[name] += [(before + step + 1, np.nan if value is None else value) for step, value in points]
        before += stage.epochs * per_epoch
    arrays = {name: np.array(points, float) for name, points in found.items()}
    return {name: (points[:, 0], points[:, 1]) for name, points in arrays.items()}


def schedule_warnings(recipe: Recipe, steps: Sequence[int]) -> list[str]:
    """What the recipe asks for and the schedule never does. Arguments as above."""
    return [
        f"stage.{number}.{text}"
        for number, (stage, per_epoch) in enumerate(zip(recipe.stage, steps, strict=True))
        for text in _warnings_of(stage, per_epoch)
    ]


def _warnings_of(stage: Stage, per_epoch: int) -> list[str]:
    total, warm = stage.epochs * per_epoch, rate_warmup_steps(stage, per_epoch)
    length = f"the stage has {counted(total, 'step')}"
    found = []
    if warm >= total:
        key = "warmup_steps" if stage.warmup_steps else "warmup_epochs"
        found.append(f"{key}: the warm-up takes {counted(warm, 'step')}, {length}: the rate never falls")
    if stage.margin_warmup_steps >= total:
        found.append(
            f"margin_warmup_steps = {stage.margin_warmup_steps}, {length}: the margin never reaches its full value"
        )
    if stage.lr_drop_epochs and stage.schedule != "step":
        found.append(f"lr_drop_epochs works only with schedule = 'step', and has no effect with '{stage.schedule}'")
    late = [f"{epoch:g}" for epoch in stage.lr_drop_epochs if epoch >= stage.epochs]
    if late and stage.schedule == "step":
        found.append(f"lr_drop_epochs: the drop at {', '.join(late)} comes after the end, epoch {stage.epochs}")
    if stage.schedule == "step" and not stage.lr_drop_epochs:
        found.append("schedule = 'step' without lr_drop_epochs: the rate never drops")
    if stage.schedule == "plateau" and stage.patience >= stage.epochs:
        found.append(
            f"patience = {stage.patience}, but the stage has {counted(stage.epochs, 'epoch')}: the rate never drops"
        )
    if stage.final_epoch is not None and stage.final_epoch > stage.epochs:
        found.append(f"final_epoch = {stage.final_epoch:g} comes after the end, epoch {stage.epochs}")
    return found


def _curves(stage: Stage, per_epoch: int) -> dict[str, list[tuple[int, float | None]]]:
    """{name of `CURVES`: [(step of the stage, value)]}, with the ends of warm-ups and the drops."""
    total = stage.epochs * per_epoch
    bends = [rate_warmup_steps(stage, per_epoch), warmup_steps(stage, per_epoch), stage.margin_warmup_steps]
    bends += [int(np.ceil(epoch * per_epoch)) for epoch in stage.lr_drop_epochs]
    near = {bend + i for bend in bends for i in (-1, 0)}
    at = sorted({*np.linspace(0, total - 1, _POINTS).astype(int).tolist(), *(k for k in near if 0 <= k < total)})
    return {
        "learning rate": [(step, learning_rate_at(stage, step, per_epoch)) for step in at],
        "margin": [(step, margin_at(stage, step)) for step in at],
        "scale": [(step, scale_at(stage, step)) for step in at],
    }


def _path(points: list[tuple[int, float | None]], total: int) -> str:
    """A curve in a few words: '0.0025, 0.1 at step 40, 0 at the end'."""
    values = [value for _, value in points if value is not None]
    if not values:
        return "-"
    first, last = values[0], values[-1]
    top = max(values)
    if min(values) == top:
        return f"{top:.4g}"
    texts = [f"{first:.3g}"]
    step = next(step for step, value in points if value == top)
    if top not in (first, last):
        texts.append(f"{top:.3g} at step {step + 1}")
    elif top == last and step + 1 < total:
        return f"{first:.3g}, from step {step + 1} {last:.4g}"
    return ", ".join([*texts, f"{last:.3g} at the end"])

"""Which keys of a recipe may change when a run resumes, and what must be trained anew for the others."""

from collections.abc import Sequence

from facelib.errors import FaceError
from facelib.training.recipe.schema import Recipe
from facelib.training.recipe.toml import differences

# Keys that name no variable of a checkpoint and leave the order of the records as it is. docs/train.md lists them.
MAY_CHANGE = ("compile", "nan_retries", "data.batch_size", "data.flip", "data.augment", "train")
STAGE_MAY_CHANGE = (  # in the stage that is trained now; the stages after it may change in every key
    "epochs", "learning_rate", "backbone_rate", "warmup_steps", "warmup_epochs", "warmup_start", "warmup_power",
    "schedule", "final_learning_rate", "final_epoch", "power", "lr_drop_epochs", "lr_drop", "patience", "margin",
    "scale", "margin_warmup_steps", "warmup_scale", "label_smoothing", "weight_decay", "last_layer_decay", "clip_norm",
    "mixup", "micro_batches",
)  # fmt: skip


def forbidden_changes(old: Recipe, new: Recipe, stage: int) -> list[str]:
    """The changes of keys that may not change while stage `stage` is trained, each as 'model.width: 1.0 -> 0.5'."""
    return [change for change in differences(old, new) if not _may_change(change.split(":")[0], stage)]


def check_epochs(recipe: Recipe, stage: int, trained: Sequence[int]) -> None:
    """Checks that a stage is not shorter than what is trained of it.

    Args:
        recipe: the new one.
        stage: the stage that is trained now.
        trained: complete epochs of the whole training, and steps of the next one.

    Raises:
        FaceError: it is shorter.
    """
    epochs, steps = trained
    begun = epochs + (steps > 0) - sum(earlier.epochs for earlier in recipe.stage[:stage])
    if recipe.stage[stage].epochs < begun:
        raise FaceError(
            f"stage.{stage}.epochs must be at least {begun}, the number of epochs that have already begun. Received: "
            f"{recipe.stage[stage].epochs}."
        )


def _may_change(key: str, stage: int) -> bool:
    table, _, rest = key.partition(".")
    if table != "stage":
        return any(key == allowed or key.startswith(f"{allowed}.") for allowed in MAY_CHANGE)
    number, _, name = rest.partition(".")
    return int(number) > stage or (int(number) == stage and name.split(".")[0] in STAGE_MAY_CHANGE)

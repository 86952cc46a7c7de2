"""The rules of a recipe: ranges of values, and combinations of keys that make no sense."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from facelib.data.augment import check_augment
from facelib.errors import FaceError
from facelib.losses.registry import LOSSES
from facelib.models.registry import IMPORTED
from facelib.training.recipe.schema import ROW_OPTIMIZERS, Stage

if TYPE_CHECKING:
    from facelib.models.registry import ModelConfig
    from facelib.training.recipe.schema import Recipe

Rule = tuple[bool, str, object]  # is met, the rule, what was received
SMALLEST_PART = 8  # images: the statistics of fewer are too noisy to normalise by
_AT_LEAST_0 = (
    "weight_decay", "last_layer_decay", "clip_norm", "warmup_steps", "warmup_epochs", "margin_warmup_steps",
    "center_loss", "norm_penalty", "distill_weight", "backbone_rate", "mixup", "sam",
)  # fmt: skip


def check_recipe(recipe: "Recipe", source: str) -> None:
    """Checks all rules.

    Args:
        recipe: to check.
        source: names it in the message.

    Raises:
        FaceError: the first rule that is broken.
    """
    for is_met, rule, received in _rules(recipe):
        if not is_met:
            raise FaceError(f"{source}: {rule}. Received: {received}.")
    for number, stage in enumerate(recipe.stage):
        try:
            _ = stage.options
        except FaceError as error:
            raise FaceError(f"{source}: stage.{number}: {error}") from error


def _rules(recipe: "Recipe") -> list[Rule]:
    is_plain = Path(recipe.name).name == recipe.name and recipe.name not in ("", "..")
    model, data = recipe.model, recipe.data
    rules = [
        (is_plain, "name must be valid as the name of a folder in runs/", repr(recipe.name)),
        (recipe.seed >= 0, "seed must be at least 0", recipe.seed),
        (recipe.nan_retries >= 0, "nan_retries must be at least 0", recipe.nan_retries),
        (model.embedding_size >= 1, "model.embedding_size must be at least 1", model.embedding_size),
        (model.width > 0, "model.width must be above 0", model.width),
        (0 <= model.dropout < 1, "model.dropout must be in [0, 1)", model.dropout),
        *_of_the_layers(model),
        (
            _is_input_size(model.input_size),
            "model.input_size must be 'height,width', two multiples of 16 from 32 to 512",
            repr(model.input_size),
        ),
        (
            not model.source or model.backbone == IMPORTED,
            "model.from needs backbone = 'imported', and backbone = 'imported' needs model.from",
            model.source,
        ),
        (data.batch_size >= 2, "data.batch_size must be at least 2", data.batch_size),
        *check_augment(data.augment, "data.augment"),
        *_of_the_parts(recipe),
    ]
    for number, stage in enumerate(recipe.stage):
        rules += [(met, f"stage.{number}.{rule}", got) for met, rule, got in _ranges(stage, data.batch_size)]
        rules += [(met, f"stage.{number}: {rule}", got) for met, rule, got in _combinations(stage, recipe)]
    return rules


def _of_the_layers(model: "ModelConfig") -> list[Rule]:
    momentum, epsilon, slope = model.bn_momentum, model.bn_epsilon, model.slope
    has_slopes = model.activation in ("prelu", "leaky_relu")
    return [
        (momentum is None or 0 <= momentum < 1, "model.bn_momentum must be in [0, 1)", momentum),
        (epsilon is None or epsilon > 0, "model.bn_epsilon must be above 0", epsilon),
        (slope is None or 0 <= slope <= 1, "model.slope must be in [0, 1]", slope),
        (
            slope is None or has_slopes,
            "model.slope can be used only with prelu and leaky_relu",
            f"'{model.activation}'",
        ),
    ]


def _of_the_parts(recipe: "Recipe") -> list[Rule]:
    train = recipe.train
    has_parts = train.batch_norm == "part"
    return [
        (train.part >= SMALLEST_PART, f"train.part must be at least {SMALLEST_PART} images", train.part),
        (train.lanes == "auto" or int(train.lanes) >= 1, "train.lanes must be at least 1, or 'auto'", train.lanes),
        (
            has_parts or train.lanes in ("auto", 1),
            "train.lanes above 1 needs train.batch_norm = 'part': statistics of a whole batch need all parts of the "
            "batch",
            f"train.lanes = {train.lanes} with train.batch_norm = '{train.batch_norm}'",
        ),
        (
            not (has_parts and recipe.sync_batch_norm),
            "sync_batch_norm uses the images of all workers, so it cannot be used with train.batch_norm = 'part'",
            "both",
        ),
    ]


def _is_input_size(text: str) -> bool:
    sides = re.fullmatch(r"([0-9]{2,3}),([0-9]{2,3})", text)
    return sides is not None and all(side % 16 == 0 and 32 <= side <= 512 for side in map(int, sides.groups()))


def _ranges(stage: Stage, batch_size: int) -> list[Rule]:
    margin, scale, warm = stage.margin, stage.scale, stage.warmup_scale
    most = batch_size // 2
    rules = [
        (stage.epochs >= 1, "epochs must be at least 1", stage.epochs),
        (margin is None or 0 <= margin < math.pi / 2, "margin must be in [0, pi/2)", margin),
        (scale is None or scale > 0, "scale must be above 0", scale),
        (warm is None or warm > 0, "warmup_scale must be above 0", warm),
        (0 < stage.sample_rate <= 1, "sample_rate must be above 0 and at most 1", stage.sample_rate),
        (0 <= stage.label_smoothing < 1, "label_smoothing must be in [0, 1)", stage.label_smoothing),
        (stage.learning_rate > 0, "learning_rate must be above 0", stage.learning_rate),
        (0 <= stage.momentum < 1, "momentum must be in [0, 1)", stage.momentum),
        (stage.epsilon is None or stage.epsilon > 0, "epsilon must be above 0", stage.epsilon),
        (0 < stage.lr_drop <= 1, "lr_drop must be in (0, 1]", stage.lr_drop),
        (stage.power > 0, "power must be above 0", stage.power),
        (0 <= stage.warmup_start <= 1, "warmup_start must be from 0 to 1", stage.warmup_start),
        (stage.warmup_power > 0, "warmup_power must be above 0", stage.warmup_power),
        (stage.final_epoch is None or stage.final_epoch > 0, "final_epoch must be above 0", stage.final_epoch),
        (stage.patience >= 1, "patience must be at least 1 epoch", stage.patience),
        (0 <= stage.ema < 1, "ema must be in [0, 1)", stage.ema),
        (
            0 <= stage.final_learning_rate <= stage.learning_rate,
            "final_learning_rate must be from 0 to learning_rate",
            stage.final_learning_rate,
        ),
        (1 <= stage.images_per_identity <= most, f"images_per_identity must be from 1 to {most} (half a batch)",
         stage.images_per_identity),
        (1 <= stage.micro_batches <= most, f"micro_batches must be from 1 to {most}, so that each part has two images",
         stage.micro_batches),
    ]  # fmt: skip
    return rules + [(getattr(stage, key) >= 0, f"{key} must be at least 0", getattr(stage, key)) for key in _AT_LEAST_0]


def _combinations(stage: Stage, recipe: "Recipe") -> list[Rule]:
    is_metric = stage.loss in LOSSES and LOSSES[stage.loss].kind == "metric"
    has_centres = stage.loss in LOSSES and not is_metric
    loss = f"loss = '{stage.loss}'"
    return [
        (
            not (stage.warmup_steps and stage.warmup_epochs),
            "a stage must not set both warmup_steps and warmup_epochs",
            f"{stage.warmup_steps} and {stage.warmup_epochs:g}",
        ),
        (
            not (is_metric and stage.center_loss),
            "center_loss needs a loss with a margin head; triplet losses have none",
            loss,
        ),
        (
            has_centres or not stage.freeze_backbone,
            "freeze_backbone needs a loss with class centres: otherwise nothing is left to train",
            loss,
        ),
        (
            not is_metric or stage.images_per_identity > 1,
            "triplet losses need images_per_identity of 2 or more",
            f"{loss} with images_per_identity = {stage.images_per_identity}",
        ),
        (
            not (is_metric and stage.micro_batches > 1),
            "triplet losses use the whole batch, so micro_batches cannot be used",
            loss,
        ),
        (has_centres or not stage.mixup, "mixup mixes classes, so it needs a loss with a margin head", loss),
        (has_centres or not stage.label_smoothing, "label_smoothing needs a loss with a margin head", loss),
        (
            stage.loss != "distill" or (bool(recipe.teacher) and stage.distill_weight > 0),
            "loss = 'distill' needs a teacher and a distill_weight above 0",
            f"teacher = '{recipe.teacher}', distill_weight = {stage.distill_weight:g}",
        ),
        (
            stage.loss != "distill" or not stage.given_options,
            "loss = 'distill' cannot be used with margin, scale or loss_options",
            ", ".join(stage.given_options),
        ),
        (
            not (stage.freeze_backbone and stage.freeze_layers),
            "freeze_backbone already freezes all layers: leave freeze_layers out",
            list(stage.freeze_layers),
        ),
        *(_of_a_sample(stage, has_centres) if stage.sample_rate < 1 else []),
    ]


def _of_a_sample(stage: Stage, has_centres: bool) -> list[Rule]:
    rate = f"sample_rate = {stage.sample_rate:g}"
    needs_all = stage.loss == "adacos" and stage.given_options.get("is_dynamic", True)
    return [
        (has_centres, "sample_rate needs a loss with a margin head", f"loss = '{stage.loss}'"),
        (
            not needs_all,
            "adacos measures its scale on all classes, so it needs is_dynamic = false, or no sample_rate",
            rate,
        ),
        (not stage.label_smoothing, "label_smoothing uses all classes, so it cannot be used with sample_rate", rate),
        (not stage.sam, "sam moves all class centres, so it cannot be used with sample_rate", rate),
        (
            stage.optimizer_kind in ROW_OPTIMIZERS,
            f"sample_rate works only with the optimizers {', '.join(ROW_OPTIMIZERS)}",
            f"{rate} with optimizer = '{stage.optimizer_kind}'",
        ),
    ]

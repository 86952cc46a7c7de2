"""Learning rate and margin as functions of the step: no state, so a resumed run is on the same curve."""

import math

from facelib.recipe import StageConfig


def learning_rate_at(stage: StageConfig, step: int, steps_per_epoch: int) -> float:
    """The learning rate of `step`, counted from 0 at the stage's start.

    Linear warm-up from learning_rate / warmup_steps; then half a cosine down to final_learning_rate, which the step
    after the stage's last would have (Loshchilov & Hutter, SGDR, https://arxiv.org/abs/1608.03983, eq. 5 without
    restarts), or 'step': multiplied by lr_drop at every epoch of lr_drop_epochs that has begun. It never rises after
    the warm-up.
    """
    if step < stage.warmup_steps:
        return stage.learning_rate * (step + 1) / stage.warmup_steps
    if stage.schedule == "step":
        num_drops = sum(step >= epoch * steps_per_epoch for epoch in stage.lr_drop_epochs)
        return stage.learning_rate * stage.lr_drop**num_drops
    total = stage.epochs * steps_per_epoch - stage.warmup_steps
    progress = min(1.0, (step - stage.warmup_steps) / max(1, total))
    span = stage.learning_rate - stage.final_learning_rate
    return stage.final_learning_rate + span * 0.5 * (1.0 + math.cos(math.pi * progress))


def margin_at(stage: StageConfig, step: int) -> float:
    """The angular margin of `step` in radians: linear from 0 to the stage's margin over margin_warmup_steps."""
    if step >= stage.margin_warmup_steps:
        return stage.margin
    return stage.margin * step / stage.margin_warmup_steps

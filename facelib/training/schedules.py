"""Learning rate, margin, scale and MixUp as functions of the step. A resumed run is on the same curves."""

import math
from dataclasses import dataclass

import numpy as np

from facelib.training.recipe.schema import Stage

_MARGINS = ("margin", "margin2", "margin3", "max_margin")  # options that are 0 without a margin


def learning_rate_at(stage: Stage, step: int, steps_per_epoch: int) -> float:
    """The learning rate of one step, without the factor of a 'plateau' schedule.

    In the warm-up of n steps it is peak (s + (1 - s) (k / n)^warmup_power) at step k from 1, with s the warmup_start.
    Then it follows `schedule`, with p from 0 to 1 at final_epoch, where it stays:

    - 'cosine': final + (peak - final) (1 + cos(pi p)) / 2 (Loshchilov & Hutter, SGDR,
      https://arxiv.org/abs/1608.03983, eq. 5 without restarts);
    - 'polynomial': final + (peak - final) (1 - p)^power (Liu et al., ParseNet, https://arxiv.org/abs/1506.04579);
    - 'step': the peak, multiplied by lr_drop for every epoch of lr_drop_epochs that has begun;
    - 'constant' and 'plateau': the peak.

    Args:
        stage: gives the curve.
        step: step of the stage, from 0.
        steps_per_epoch: turns epochs into steps.
    """
    warmup = rate_warmup_steps(stage, steps_per_epoch)
    if step < warmup:
        risen = (step + 1) * ((step + 1) / warmup) ** (stage.warmup_power - 1.0)
        return stage.learning_rate * (stage.warmup_start * (warmup - risen) + risen) / warmup
    if stage.schedule in ("constant", "plateau"):
        return stage.learning_rate
    if stage.schedule == "step":
        num_drops = sum(step >= epoch * steps_per_epoch for epoch in stage.lr_drop_epochs)
        return stage.learning_rate * stage.lr_drop**num_drops
    last = stage.epochs if stage.final_epoch is None else stage.final_epoch
    progress = min(1.0, (step - warmup) / max(1, last * steps_per_epoch - warmup))
    is_cosine = stage.schedule == "cosine"
    share = 0.5 * (1.0 + math.cos(math.pi * progress)) if is_cosine else (1.0 - progress) ** stage.power
    return stage.final_learning_rate + (stage.learning_rate - stage.final_learning_rate) * share


def warmup_steps(stage: Stage, steps_per_epoch: int) -> int:
    """Steps of the stage until both warm-ups, of the learning rate and of the margin, are over."""
    return max(rate_warmup_steps(stage, steps_per_epoch), stage.margin_warmup_steps)


def rate_warmup_steps(stage: Stage, steps_per_epoch: int) -> int:
    """Steps of the stage over which the learning rate rises."""
    return stage.warmup_steps or round(stage.warmup_epochs * steps_per_epoch)


def margin_share_at(stage: Stage, step: int) -> float:
    """The share of the margin at one step: it rises linearly from 0 to 1 over margin_warmup_steps.

    Args:
        stage: gives margin_warmup_steps.
        step: step of the stage, from 0.
    """
    return 1.0 if step >= stage.margin_warmup_steps else step / stage.margin_warmup_steps


def margin_at(stage: Stage, step: int) -> float | None:
    """The margin at one step: the option of the loss, or the largest of its margins, times `margin_share_at`.

    Args:
        stage: gives the loss, its options and margin_warmup_steps.
        step: step of the stage, from 0.

    Returns:
        Radians or cosine, as the loss has it; None for a loss without a margin.
    """
    margins = [stage.options[name] for name in _MARGINS if name in stage.options]
    return max(margins) * margin_share_at(stage, step) if margins else None


def scale_at(stage: Stage, step: int) -> float | None:
    """The scale of the logits at one step: it rises with the margin from `warmup_scale`; None for a loss without one.

    Args:
        stage: gives the loss, its options and the warm-up.
        step: step of the stage, from 0.
    """
    scale = stage.options.get("scale")
    if scale is None or stage.warmup_scale is None:
        return scale
    return stage.warmup_scale + (scale - stage.warmup_scale) * margin_share_at(stage, step)


def mixup_share_at(stage: Stage, seed: int, global_step: int) -> float:
    """The share of each image in its mixture at one step: drawn from Beta(mixup, mixup), or 1 without mixup.

    Reference: Zhang et al., mixup, https://arxiv.org/abs/1710.09412, eq. 1.

    Args:
        stage: gives `mixup`, both parameters of the Beta distribution; 0 for no mixup.
        seed: of the training.
        global_step: step of the training, from 0. The draw depends on seed and step alone.
    """
    if not stage.mixup:
        return 1.0
    return np.random.default_rng([seed, global_step]).beta(stage.mixup, stage.mixup)


@dataclass
class Plateau:
    """The state of a 'plateau' schedule: `patience` epochs without a better score multiply its factor by `lr_drop`.

    The rate does not fall below final_learning_rate.

    Attributes:
        factor: of the learning rate.
        best: best score so far; None before the first.
        wait: epochs since the best score or the last drop.
    """

    factor: float = 1.0
    best: float | None = None
    wait: int = 0

    def end_epoch(self, stage: Stage, score: float) -> float:
        """Takes the score of an epoch, where more is better; returns the factor for the next epoch."""
        if self.best is None or score > self.best:
            self.best, self.wait = score, 0
            return self.factor
        self.wait += 1
        if self.wait >= stage.patience:
            floor = stage.final_learning_rate / stage.learning_rate
            self.factor, self.wait = max(floor, self.factor * stage.lr_drop), 0
        return self.factor

"""Learning rate and warm-up as functions of the step: no state, so a resumed run is on the same curve."""

import math

from facelib.training.recipe.schema import Stage


def learning_rate_at(stage: Stage, step: int, steps_per_epoch: int) -> float:
    """The learning rate of `step`, counted from 0 at the stage's start; a plateau's drops are not in it.

    Linear warm-up from learning_rate / warmup_steps. Then, by `schedule`, with p from 0 to 1 at the stage's end:

    - 'cosine': final + (peak - final) (1 + cos(pi p)) / 2 (Loshchilov & Hutter, SGDR,
      https://arxiv.org/abs/1608.03983, eq. 5 without restarts);
    - 'polynomial': final + (peak - final) (1 - p)^power (Liu et al., ParseNet, https://arxiv.org/abs/1506.04579);
    - 'step': multiplied by lr_drop at every epoch of lr_drop_epochs that has begun;
    - 'constant' and 'plateau': the peak.
    """
    if step < stage.warmup_steps:
        return stage.learning_rate * (step + 1) / stage.warmup_steps
    if stage.schedule in ("constant", "plateau"):
        return stage.learning_rate
    if stage.schedule == "step":
        num_drops = sum(step >= epoch * steps_per_epoch for epoch in stage.lr_drop_epochs)
        return stage.learning_rate * stage.lr_drop**num_drops
    total = stage.epochs * steps_per_epoch - stage.warmup_steps
    progress = min(1.0, (step - stage.warmup_steps) / max(1, total))
    is_cosine = stage.schedule == "cosine"
    share = 0.5 * (1.0 + math.cos(math.pi * progress)) if is_cosine else (1.0 - progress) ** stage.power
    return stage.final_learning_rate + (stage.learning_rate - stage.final_learning_rate) * share


def margin_share_at(stage: Stage, step: int) -> float:
    """How far the warm-up of margin and scale has come at `step`: from 0 to 1 over margin_warmup_steps."""
    return 1.0 if step >= stage.margin_warmup_steps else step / stage.margin_warmup_steps


class Plateau:
    """The factor of a 'plateau' schedule: times `lr_drop` after every `patience` epochs without a better score.

    `state` is a dict that JSON can hold: what a resume needs.
    """

    def __init__(self, state: dict | None = None):
        self.state = state or {"factor": 1.0, "best": None, "wait": 0}

    def end_epoch(self, stage: Stage, score: float) -> float:
        """Takes an epoch's score, where more is better; returns the factor for the next."""
        at = self.state
        if at["best"] is None or score > at["best"]:
            at.update(best=score, wait=0)
        else:
            at["wait"] += 1
            if at["wait"] >= stage.patience:
                at.update(factor=at["factor"] * stage.lr_drop, wait=0)
        return at["factor"]

"""The `<model>_hist.json` of leondgarse/Keras_insightface as a `TrainingLog`: lists with one number an epoch.

`loss`, `accuracy` and `lr` are of the training. A verification set has two lists, its accuracy `NAME` and `NAME_thresh`
(evals.py and myCallbacks.py there).
"""

import math
from pathlib import Path

from facelib.errors import FaceError
from facelib.files import read_json
from facelib.reports.read_run import TrainingLog

THRESHOLD = "_thresh"


def read_history(path: Path) -> TrainingLog:
    """Reads a `_hist.json`. Each epoch counts as one step. Its accuracies, shares of 1, become percent.

    Raises:
        FaceError: no JSON object, or none with a list of finite losses; or a list with a value that is no number.
    """
    lists = read_json(path, "history of Keras_insightface")
    losses = lists.get("loss")
    if not isinstance(losses, list) or not losses:
        raise FaceError(
            f"A history of Keras_insightface must have a list 'loss' with one number per epoch. '{path}' has no such "
            "list: use a *_hist.json, or a run directory (the --out of train.py)."
        )
    names = [name for name in lists if name + THRESHOLD in lists]
    for key in ("loss", "accuracy", "lr", *names):
        values = lists.get(key, [])
        if not isinstance(values, list) or any(not _is_number(value) for value in values):
            raise FaceError(
                f"Each list of a history must hold one finite number per epoch. '{path}' has a different value in the "
                f"list '{key}': remove this value."
            )
    log = TrainingLog()
    for number, loss in enumerate(losses, 1):
        step = {"kind": "step", "step": number, "epoch": number, "loss": loss}
        for ours, theirs in (("accuracy", "accuracy"), ("learning_rate", "lr")):
            if len(lists.get(theirs, [])) >= number:
                step[ours] = lists[theirs][number - 1]
        log.steps.append(step)
        if "accuracy" in step:
            step["accuracy"] *= 100
        sets = {name: {"acc": 100 * lists[name][number - 1]} for name in names if len(lists[name]) >= number}
        log.epochs.append({"kind": "epoch", "epoch": number, "step": number, "loss": loss, "sets": sets})
    return log


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

"""The same function in other words: steps of an ONNX model as our backbones can say them."""

from pathlib import Path

import numpy as np

from facelib.errors import FaceError
from facelib.models.onnx_import.steps import Step


def flatten_slopes(steps: list[Step], path: Path) -> int:
    """Rewrites PReLU slopes above 1, in place and exactly; returns how many there were.

    Our PReLU is `max(x, a * x)`, which needs `a <= 1`. For `a > 1`, PReLU(x) = -a * max(-x, -x / a): the channel
    changes its sign before the activation, has the slope 1 / a, and what takes it multiplies by -a.

    Raises:
        FaceError: a sum takes the channel, which cannot multiply.
    """
    num_steep = 0
    for step in steps:
        if step.activation != "prelu" or not (step.slope > 1).any():
            continue
        if step.is_added:
            raise FaceError(
                f"PReLU slopes are at most 1 here. '{path}' has {step.slope.max():.4f} after '{step.name}', where a "
                f"shortcut begins: it can be rewritten only where convolutions or normalisations follow."
            )
        steep = step.slope > 1
        factor = np.where(steep, -step.slope, 1).astype(np.float32)
        sign = np.sign(factor)
        step.scale, step.beta = step.scale * sign, step.beta * sign
        step.slope = np.where(steep, 1 / step.slope, step.slope).astype(np.float32)
        for taker in steps:
            if step in taker.origins:
                _multiply_input(taker, factor)
        num_steep += int(steep.sum())
    return num_steep


def _multiply_input(step: Step, factor: np.ndarray) -> None:
    """Makes `step` work as before on an input that lacks `factor`, one number a channel."""
    if step.kernel is None:
        step.scale, step.mean = step.scale * factor, step.mean / factor
        step.variance = step.variance / factor**2
        return
    grouped = factor.reshape(step.groups, -1)  # the inputs of each group
    grouped = np.repeat(grouped, len(step.kernel) // step.groups, axis=0)  # ... of each output channel
    step.kernel = step.kernel * grouped[:, :, None, None]


def is_paired(steps: list[Step]) -> bool:
    """Whether the second step is InsightFace's: a 3x3 convolution in groups of two channels."""
    return len(steps) > 2 and steps[1].groups > 1 and steps[1].kernel.shape[:2] == (2 * steps[1].groups, 2)


def pair_channels(steps: list[Step]) -> None:
    """Brings the second step, see `is_paired`, into the order of `mobilefacenet.mbf`, in place. The last rewrite.

    A group there is the channels 2g and 2g + 1, here it is g and g + C/2. So the channels change their order from where
    the first step makes them to where the takers of the second step read them, and the kernel [C, 2, 3, 3] becomes two
    depthwise ones: of the channel itself, and of the other one of its group (`pair`).
    """
    first, second = steps[:2]
    order = np.arange(first.channels).reshape(-1, 2).T.reshape(-1)  # ours -> theirs
    for step in (first, second):
        step.kernel = step.kernel[order]
        for name in ("scale", "mean", "beta", "variance", "slope"):
            value = getattr(step, name)
            if isinstance(value, np.ndarray):
                setattr(step, name, value[order])
    for taker in steps[2:]:
        if second in taker.origins and taker.kernel is not None and taker.groups == 1:
            taker.kernel = taker.kernel[:, order]
    half = first.channels // 2
    places = np.arange(first.channels)
    own = (places >= half).astype(int)  # the place of the channel itself among the two of its group
    kernel, second.groups = second.kernel, first.channels
    second.kernel, second.pair = (kernel[places, which][:, None] for which in (own, 1 - own))

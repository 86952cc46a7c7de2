"""Rewrites steps of an ONNX model that our layers cannot express; the function stays the same."""

from pathlib import Path

import numpy as np

from facelib.errors import FaceError
from facelib.models.onnx_import.steps import Step


def flatten_slopes(steps: list[Step], path: Path) -> int:
    """Rewrites PReLU slopes above 1, in place and exactly; returns how many there were.

    Our PReLU is `max(x, a * x)`, which needs `a <= 1`. For `a > 1`, PReLU(x) = -a * max(-x, -x / a). So the channel
    changes its sign before the activation and gets the slope 1 / a, and the steps that read it multiply by -a.

    Args:
        steps: of the model; they are changed.
        path: of the model, for errors.

    Raises:
        FaceError: a sum reads the channel, and a sum cannot multiply.
    """
    num_steep = 0
    for step in steps:
        slope = step.slope  # an array for PReLU alone
        if not isinstance(slope, np.ndarray) or not (slope > 1).any():
            continue
        if step.is_added:
            raise FaceError(
                f"PReLU slopes must be at most 1 here. '{path}' has a slope of {slope.max():.4f} after '{step.name}', "
                "where a shortcut begins. A layer with larger slopes can be rewritten only if a convolution or a "
                "normalisation follows it."
            )
        steep = slope > 1
        factor = np.where(steep, -slope, 1).astype(np.float32)
        sign = np.sign(factor)
        step.scale, step.beta = step.scale * sign, step.beta * sign
        step.slope = np.where(steep, 1 / slope, slope).astype(np.float32)
        for taker in steps:
            if step in taker.origins:
                _multiply_input(taker, factor)
        num_steep += int(steep.sum())
    return num_steep


def _multiply_input(step: Step, factor: np.ndarray) -> None:
    """Lets `step` compute the same although its input is no longer multiplied by `factor`, float32 [C]."""
    if step.kernel is None:
        step.scale, step.mean = step.scale * factor, step.mean / factor
        step.variance = step.variance / factor**2
        return
    grouped = factor.reshape(step.groups, -1)  # the inputs of each group
    grouped = np.repeat(grouped, len(step.kernel) // step.groups, axis=0)  # ... of each output channel
    step.kernel = step.kernel * grouped[:, :, None, None]


def join_last_linear(steps: list[Step]) -> None:
    """Joins a linear 1x1 convolution after the global depthwise one with the embedding that follows, in place.

    sirius-ai's and Ascend's MobileFaceNets have it: 512 to 512, then 512 to the embedding. Their product is one matrix.
    """
    if len(steps) < 3:
        return
    depthwise, before, last = steps[-3:]
    if not depthwise.is_depthwise or before.activation != "linear" or before.is_added or last.origins != (before,):
        return
    if any(step.kernel is None or step.kernel.shape[2:] != (1, 1) or step.groups != 1 for step in (before, last)):
        return
    if before.kernel is not None and last.kernel is not None and before.origins == (depthwise,):
        matrix, first = last.kernel[:, :, 0, 0], before.kernel[:, :, 0, 0]
        last.mean = last.mean - matrix @ (before.beta - before.scale * before.mean)
        last.kernel = ((matrix * before.scale) @ first)[:, :, None, None]
        last.origins = before.origins
        steps.remove(before)


def is_paired(steps: list[Step]) -> bool:
    """Whether the second step is a 3x3 convolution in groups of two channels, as in InsightFace's mbf."""
    if len(steps) < 3 or steps[1].kernel is None:
        return False
    return steps[1].groups > 1 and steps[1].kernel.shape[:2] == (2 * steps[1].groups, 2)


def pair_channels(steps: list[Step]) -> None:
    """Brings the channels of the second step (see `is_paired`) into the order of `mobilefacenet.mbf`, in place.

    It must be the last rewrite. InsightFace's groups are the channels 2g and 2g + 1; here they are g and g + C/2. So
    the channels change their order, from the first step to the steps that read the second one. The kernel [C, 2, 3, 3]
    becomes two depthwise kernels: one for the channel itself, and `pair` for the other channel of its group.
    """
    first, second = steps[:2]
    if second.kernel is None:
        raise ValueError(f"pair_channels takes steps that is_paired accepts. Received: {second.describe()}")
    order = np.arange(first.channels).reshape(-1, 2).T.reshape(-1)  # channel here -> channel in InsightFace's net
    for step in (first, second):
        for name in ("kernel", "scale", "mean", "beta", "variance", "slope"):
            value = getattr(step, name)
            if isinstance(value, np.ndarray):
                setattr(step, name, value[order])
    for taker in steps[2:]:
        if second in taker.origins and taker.kernel is not None and taker.groups == 1:
            taker.kernel = taker.kernel[:, order]
    half = first.channels // 2
    places = np.arange(first.channels)
    itself = (places >= half).astype(int)  # the place of the channel among the two of its group
    kernel, second.groups = second.kernel, first.channels
    second.kernel, second.pair = (kernel[places, which][:, None] for which in (itself, 1 - itself))

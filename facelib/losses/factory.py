"""Makes the layer of a loss from its name in a recipe."""

import importlib

from facelib.losses.protocols import Loss
from facelib.losses.registry import LOSSES, resolve_options


def make_head(loss: str, num_classes: int, options: dict | None = None, warmup_scale: float | None = None) -> Loss:
    """The layer that computes a loss, not built yet.

    Args:
        loss: a name of `facelib.losses.registry.LOSSES`.
        num_classes: identities of the training set.
        options: of that loss, by name; the others have their defaults.
        warmup_scale: see `facelib.losses.margin_head.MarginHead`; a metric loss does not use it.

    Returns:
        A Keras layer named 'head' that follows `facelib.losses.protocols.Loss`.

    Raises:
        FaceError: an unknown loss or option, a value of the wrong type or out of range.
    """
    options = resolve_options(loss, options or {})
    spec = LOSSES[loss]
    module, _, name = spec.layer.partition(".")
    layer = getattr(importlib.import_module(f"facelib.losses.{module}"), name)
    if spec.kind == "metric":
        return layer(loss, **options, name="head")
    return layer(num_classes, **options, warmup_scale=warmup_scale, name="head")

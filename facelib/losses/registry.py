"""The list of losses: the name in a recipe, the layer, the options with their defaults and their rules; `make_head`.

A new loss is an entry here, a class in this folder and a row in docs/losses.md, which has the formulas.
"""

import importlib
import math
from dataclasses import dataclass, field

from facelib.errors import FaceError
from facelib.losses.protocols import Loss
from facelib.wording import did_you_mean

PAST_PI = ("mirror", "linear", "none")


@dataclass(frozen=True)
class LossSpec:
    """One loss.

    Attributes:
        kind: 'margin' for a head with class centres, 'metric' for a loss that compares the faces of a batch.
        layer: module of facelib.losses and class, such as 'fixed_margins.ArcFace'. A text, so that a recipe is read
            without TensorFlow.
        options: the default of each option; its type is that of the option.
    """

    kind: str
    layer: str
    options: dict = field(default_factory=dict)


_COSINE = {"scale": 64.0, "sub_centres": 1, "interclass_filtering": 0.0}
_ARC = {"margin": 0.5, "past_pi": "mirror", **_COSINE}
_MAGFACE = {
    "min_norm": 10.0, "max_norm": 110.0, "min_margin": 0.45, "max_margin": 0.8, "regularizer": 35.0,
    "past_pi": "linear", **_COSINE,
}  # fmt: skip
_ADACOS = {"is_dynamic": True, "sub_centres": 1, "interclass_filtering": 0.0}
_TRIPLET = {"margin": 0.35}

LOSSES: dict[str, LossSpec] = {
    "softmax": LossSpec("margin", "fixed_margins.Softmax"),
    "scale_softmax": LossSpec("margin", "fixed_margins.ScaleSoftmax", _COSINE),
    "margin_softmax": LossSpec("margin", "fixed_margins.MarginSoftmax", {"power": 2.0, "share": 0.4}),
    "arcface": LossSpec("margin", "fixed_margins.ArcFace", _ARC),
    "cosface": LossSpec("margin", "fixed_margins.CosFace", {"margin": 0.35, **_COSINE}),
    "combined": LossSpec(
        "margin", "fixed_margins.CombinedMargin", {"margin1": 1.0, "margin2": 0.3, "margin3": 0.2, **_COSINE}
    ),
    "curricularface": LossSpec(
        "margin", "adaptive_margins.CurricularFace", {**_ARC, "past_pi": "linear", "momentum": 0.01}
    ),
    "airface": LossSpec("margin", "fixed_margins.AirFace", {"margin": 0.4, **_COSINE}),
    "magface": LossSpec("margin", "adaptive_margins.MagFace", _MAGFACE),
    "adaface": LossSpec(
        "margin", "adaptive_margins.AdaFace", {"margin": 0.4, "concentration": 0.333, "momentum": 0.01, **_COSINE}
    ),
    "adacos": LossSpec("margin", "adaptive_margins.AdaCos", _ADACOS),
    "batch_hard_triplet": LossSpec("metric", "metric_losses.TripletLoss", _TRIPLET),
    "batch_all_triplet": LossSpec("metric", "metric_losses.TripletLoss", _TRIPLET),
    "semi_hard_triplet": LossSpec("metric", "metric_losses.TripletLoss", _TRIPLET),
}

# option -> (test of a value, the rule in words). A margin beyond pi / 2 would push a face away from its target centre.
_ANGLE = (lambda v: 0 <= v < math.pi / 2, "in [0, pi/2)")
_SHARE = (lambda v: 0 < v < 1, "in (0, 1)")
_ABOVE_0 = (lambda v: 0 < v < math.inf, "above 0")
_RULES = {
    "scale": _ABOVE_0,
    "sub_centres": (lambda v: 1 <= v <= 100, "from 1 to 100"),
    "interclass_filtering": (lambda v: 0 <= v < 1, "a cosine in [0, 1); 0 means no filtering"),
    "margin": _ANGLE,
    "margin1": (lambda v: 1 <= v < 5, "in [1, 5)"),
    "margin2": _ANGLE,
    "margin3": (lambda v: 0 <= v < 1, "in [0, 1)"),
    "min_margin": _ANGLE,
    "max_margin": _ANGLE,
    "min_norm": _ABOVE_0,
    "max_norm": _ABOVE_0,
    "regularizer": (lambda v: 0 <= v < math.inf, "at least 0"),
    "momentum": _SHARE,
    "concentration": _ABOVE_0,
    "power": (lambda v: 1 <= v < math.inf, "at least 1"),
    "share": (lambda v: 0 <= v <= 1, "in [0, 1]"),
    "past_pi": (lambda v: v in PAST_PI, f"one of {', '.join(PAST_PI)}"),
}


def resolve_options(loss: str, given: dict) -> dict:
    """All options of a loss: its defaults, replaced by those that are given.

    Args:
        loss: a name in `LOSSES`.
        given: options by name.

    Raises:
        FaceError: an unknown loss or option, a value of the wrong type or out of range.
    """
    if loss not in LOSSES:
        losses = (*LOSSES, "distill")
        raise FaceError(f"loss must be one of {', '.join(losses)}. Received: '{loss}'.{did_you_mean(loss, losses)}")
    defaults = LOSSES[loss].options
    options = dict(defaults)
    for name, value in given.items():
        if name not in defaults:
            known = ", ".join(f"{key} = {default!r}" for key, default in defaults.items()) or "none"
            raise FaceError(
                f"loss '{loss}' has only the options {known}. Received: {name} = "
                f"{value!r}.{did_you_mean(name, defaults)}"
            )
        options[name] = _checked(loss, name, value, type(defaults[name]))
    if loss == "magface":
        for low, high in (("min_norm", "max_norm"), ("min_margin", "max_margin")):
            if options[low] >= options[high]:
                raise FaceError(f"{low} must be below {high}. Received: {options[low]:g} and {options[high]:g}.")
    return options


def _checked(loss: str, name: str, value, kind: type):
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise FaceError(f"'{name}' of loss '{loss}' must be a {kind.__name__}. Received: {value!r}.")
    is_met, rule = _RULES.get(name, (lambda v: True, ""))
    if not is_met(value):
        raise FaceError(f"'{name}' of loss '{loss}' must be {rule}. Received: {value!r}.")
    return value


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

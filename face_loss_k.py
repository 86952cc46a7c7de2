"""The losses of a training by name: `make_head("arcface", num_classes, options)`. Names TensorFlow.

Margin heads are Keras layers over class centres (facelib/losses/margin_head.py), metric losses compare the faces of a batch
(facelib/losses/metric_losses.py). Names, options and defaults: facelib/losses/registry.py. Formulas: docs/losses.md.
"""

from facelib.losses.adaptive_margins import AdaCos, AdaFace, CurricularFace, MagFace
from facelib.losses.fixed_margins import (
    AirFace,
    ArcFace,
    CombinedMargin,
    CosFace,
    MarginSoftmax,
    ScaleSoftmax,
    Softmax,
    cos_plus_margin,
)
from facelib.losses.metric_losses import TripletLoss
from facelib.losses.registry import LOSSES, resolve_options

__all__ = ["ArcFace", "cos_plus_margin", "make_head"]

_HEADS = {
    "softmax": Softmax,
    "scale_softmax": ScaleSoftmax,
    "margin_softmax": MarginSoftmax,
    "arcface": ArcFace,
    "cosface": CosFace,
    "combined": CombinedMargin,
    "curricularface": CurricularFace,
    "airface": AirFace,
    "magface": MagFace,
    "adaface": AdaFace,
    "adacos": AdaCos,
}


def make_head(loss: str, num_classes: int, options: dict | None = None, warmup_scale: float | None = None):
    """The layer that computes `loss`, not yet built.

    Args:
        loss: a name of `facelib.losses.registry.LOSSES`.
        num_classes: identities.
        options: of that loss; the others have their defaults.
        warmup_scale: see `facelib.losses.margin_head.MarginHead`.

    Returns:
        A layer named 'head' with `loss_and_accuracy(embeddings, labels, margin_share, label_smoothing)`.
    """
    options = resolve_options(loss, options or {})
    if LOSSES[loss].kind == "metric":
        return TripletLoss(loss, **options, name="head")
    return _HEADS[loss](num_classes, **options, warmup_scale=warmup_scale, name="head")

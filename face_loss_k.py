"""The losses of a training by name: `make_head("arcface", num_classes, options)`. Names TensorFlow.

Margin heads are Keras layers over class centres (facelib/margin_head.py), metric losses compare the faces of a batch
(facelib/triplet_losses.py). Names, options and defaults: facelib/loss_catalogue.py. Formulas: docs/losses.md.
"""

from facelib.adaptive_heads import AdaCos, AdaFace, CurricularFace, MagFace
from facelib.fixed_heads import (
    AirFace,
    ArcFace,
    CombinedMargin,
    CosFace,
    MarginSoftmax,
    ScaleSoftmax,
    Softmax,
    cos_plus_margin,
)
from facelib.loss_catalogue import LOSSES, resolve_options
from facelib.triplet_losses import TripletLoss

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
        loss: a name of `facelib.loss_catalogue.LOSSES`.
        num_classes: identities.
        options: of that loss; the others have their defaults.
        warmup_scale: see `facelib.margin_head.MarginHead`.

    Returns:
        A layer named 'head' with `loss_and_accuracy(embeddings, labels, warmth, label_smoothing)`.
    """
    options = resolve_options(loss, options or {})
    if LOSSES[loss].kind == "metric":
        return TripletLoss(loss, **options, name="head")
    return _HEADS[loss](num_classes, **options, warmup_scale=warmup_scale, name="head")

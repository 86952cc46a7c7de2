"""ArcFace and all other losses that a training can use.

ArcFace is in facelib/losses/fixed_margins.py; import it from here.

    from face_loss_k import ArcFace, make_head
    head = make_head("arcface", num_classes=1000, options={"margin": 0.5, "scale": 64.0})

Margin heads are Keras layers with class centres. Fixed margins are in facelib/losses/fixed_margins.py, adaptive margins
in facelib/losses/adaptive_margins.py, and their common part in facelib/losses/margin_head.py. Metric losses compare the
faces of a batch with each other (facelib/losses/metric_losses.py). Distillation compares the embeddings with those of a
teacher (facelib/losses/distillation.py). The names, options and defaults of all losses are in
facelib/losses/registry.py. Formulas: docs/losses.md.
"""

from facelib.losses.adaptive_margins import AdaCos, AdaFace, CurricularFace, MagFace
from facelib.losses.distillation import Distiller
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
from facelib.losses.margin_head import MarginHead
from facelib.losses.metric_losses import CenterLoss, TripletLoss
from facelib.losses.protocols import Loss, MakeHead, MarginLoss
from facelib.losses.registry import make_head

__all__ = [
    "AdaCos",
    "AdaFace",
    "AirFace",
    "ArcFace",
    "CenterLoss",
    "CombinedMargin",
    "CosFace",
    "CurricularFace",
    "Distiller",
    "Loss",
    "MagFace",
    "MakeHead",
    "MarginHead",
    "MarginLoss",
    "MarginSoftmax",
    "ScaleSoftmax",
    "Softmax",
    "TripletLoss",
    "cos_plus_margin",
    "make_head",
]

"""A recipe's [model] table -> a call of the right builder. No TensorFlow: scripts, which may import them, give them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from facelib.errors import FaceError

# The nets of keras.applications that `backbones.py` adapts.
APPLICATIONS = (
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "MobileNetV3Large",
    "ResNet50V2",
    "ResNet101V2",
    "EfficientNetV2B0",
    "EfficientNetV2B1",
    "EfficientNetV2B2",
    "EfficientNetV2B3",
    "EfficientNetV2S",
)
IRESNETS = ("iresnet18", "iresnet34", "iresnet50", "iresnet100")
BACKBONES = ("mobilefacenet", "my_mobilenet", "mbf", "ghostfacenet_v1", *IRESNETS, *APPLICATIONS)
# What a backbone takes of [model] beside embedding_size, activation and dropout; without an entry, nothing.
TAKEN = {
    "mobilefacenet": ("stem", "padding", "width"),
    "my_mobilenet": ("padding", "width"),
    "mbf": ("padding",),
    "ghostfacenet_v1": ("width",),
    **dict.fromkeys(APPLICATIONS, ("width", "output_layer")),
}
OPTIONAL = ("stem", "padding", "width", "output_layer")


@dataclass(frozen=True)
class ModelConfig:
    """The embedder: a backbone and its options.

    `stem` is mobilefacenet's alone; `output_layer` and activation 'own' are those of the keras.applications nets.
    """

    backbone: str = "mobilefacenet"
    embedding_size: int = 128
    activation: str = "prelu"
    stem: str = "paper"
    output_layer: str = "GDC"
    padding: str = "same"
    width: float = 1.0
    dropout: float = 0.0


def build_network(model: ModelConfig, builders: Mapping[str, Callable]):
    """The embedder that the table describes: float raw RGB pixels [N, 112, 112, 3] -> float32 [N, D].

    Args:
        builders: by name of the backbone, with 'application' (name, ...) for `APPLICATIONS` and 'iresnet' (depth, ...).

    Raises:
        FaceError: an option that this backbone does not have.
    """
    name, taken = model.backbone, TAKEN.get(model.backbone, ())
    options = {"embedding_size": model.embedding_size, "activation": model.activation, "dropout": model.dropout}
    for key in OPTIONAL:
        value, is_default = getattr(model, key), getattr(model, key) == getattr(ModelConfig, key)
        if key not in taken and not is_default:
            others = ", ".join(other for other, keys in TAKEN.items() if key in keys)
            raise FaceError(f"model.{key} is an option of {others}. Received: {key}={value!r} for {name}.")
        if not is_default:  # else the builder's own default: mbf is padded, and ghostfacenet_v1 widened, as published
            options[key] = value
    if name in APPLICATIONS:
        return builders["application"](name, **options)
    if model.activation == "own":
        raise FaceError(f"model.activation = 'own' is for {', '.join(APPLICATIONS)}. Received: it for {name}.")
    if name in IRESNETS:
        return builders["iresnet"](int(name.removeprefix("iresnet")), **options)
    return builders[name](**options)

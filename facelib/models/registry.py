"""The names of the backbones, the [model] table of a recipe (`ModelConfig`), and the call that it describes.

The builders are at the top level, where no room imports them: backbones.py passes them to `build_network`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields

from facelib.errors import FaceError
from facelib.model_input import PIXEL_SCALINGS

# The networks of keras.applications that backbones.py adapts.
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
# Blocks of the four groups of an iresnet, by its depth.
IRESNET_DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}
IRESNETS = tuple(f"iresnet{depth}" for depth in IRESNET_DEPTHS)
EDGEFACES = ("edgeface_xxs", "edgeface_xs", "edgeface_s")
MIXFACENETS = ("mixfacenet_xs", "mixfacenet_s")
IMPORTED = "imported"  # the net of an .h5, whatever its structure
BACKBONES = (
    IMPORTED,
    "mobilefacenet",
    "mobilefacenet_s",
    "my_mobilenet",
    "mbf",
    "ghostfacenet_v1",
    *EDGEFACES,
    *MIXFACENETS,
    *IRESNETS,
    *APPLICATIONS,
)
KERNEL_INITS = ("own", "he_normal", "glorot_normal", "glorot_uniform", "normal")
# Keys of [model] that not all backbones take.
TAKEN = {
    "mobilefacenet": ("stem", "padding", "width"),
    "mobilefacenet_s": ("padding", "width"),
    "my_mobilenet": ("padding", "width"),
    "mbf": ("padding",),
    "ghostfacenet_v1": ("width",),
    **dict.fromkeys(MIXFACENETS, ("padding",)),
    **dict.fromkeys(APPLICATIONS, ("width", "output_layer")),
}
# Backbones whose published activations are not one of 'prelu', 'relu', 'relu6' and 'leaky_relu'.
KEEP_ACTIVATION = (*APPLICATIONS, *EDGEFACES, *MIXFACENETS)
# Backbones that a function (name, ...) builds.
FAMILIES = {"application": APPLICATIONS, "edgeface": EDGEFACES, "mixfacenet": MIXFACENETS}
OPTIONAL = ("stem", "padding", "width", "output_layer")


@dataclass(frozen=True)
class ModelConfig:
    """The [model] table of a recipe: a backbone and its options.

    Attributes:
        backbone: one of `BACKBONES`. 'imported' takes the net in the file `source` as it is, with its weights.
        source: path of that .h5; the key `from` of a recipe.
        embedding_size: D, length of an embedding.
        activation: 'prelu', 'relu', 'relu6' or 'leaky_relu'; 'own' keeps the published one of `KEEP_ACTIVATION`.
        stem: of mobilefacenet: 'paper', or 'separable' with one 1x1 convolution more.
        output_layer: of the keras.applications networks: 'GDC', 'E' or 'GAP'.
        padding: 'same' as TensorFlow pads, or 'symmetric' as PyTorch does.
        width: multiplies the channel counts.
        dropout: rate before the embedding layer.
        slope: for negative inputs: that of leaky_relu, or where those of prelu start. None for 0.1 and 0.25.
        bn_momentum: share of the moving statistics that each step keeps; None for the backbone's own, 0.9.
        bn_epsilon: added to the variance; None for the backbone's own.
        kernel_init: distribution of the first kernels, one of `KERNEL_INITS`; 'own' is that of the backbone, 'normal'
            has a standard deviation of 0.1.
        input_size: 'height,width' in pixels, multiples of 16.
        pixels: scaling of the pixels inside the net, a key of `PIXEL_SCALINGS`; 'own' is what the backbone was
            published with.
    """

    backbone: str = "mobilefacenet"
    source: str = field(default="", metadata={"key": "from"})
    embedding_size: int = 128
    activation: str = "prelu"
    stem: str = "paper"
    output_layer: str = "GDC"
    padding: str = "same"
    width: float = 1.0
    dropout: float = 0.0
    slope: float | None = None
    bn_momentum: float | None = None
    bn_epsilon: float | None = None
    kernel_init: str = "own"
    input_size: str = "112,112"
    pixels: str = "own"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of `input_size`, in pixels."""
        height, width = self.input_size.split(",")
        return int(height), int(width)

    @property
    def without_effect(self) -> list[str]:
        """The keys that are given and that an imported net does not take."""
        if self.backbone != IMPORTED:
            return []
        keys = [each.name for each in fields(self) if each.name not in ("backbone", "source")]
        return [key for key in keys if getattr(self, key) != getattr(ModelConfig, key)]


def build_network(model: ModelConfig, builders: Mapping[str, Callable]):
    """Builds the embedder that a [model] table describes: float raw RGB pixels [N, H, W, 3] -> float32 [N, D].

    Args:
        model: the table; its backbone is not 'imported'.
        builders: functions by name of the backbone or of its family: the keys of `FAMILIES` (name, ...), and 'iresnet'
            (depth, ...) for `IRESNETS`.

    Raises:
        FaceError: an option that this backbone does not have.
    """
    name, taken = model.backbone, TAKEN.get(model.backbone, ())
    options = {"embedding_size": model.embedding_size, "activation": model.activation, "dropout": model.dropout}
    for key in OPTIONAL:
        value, is_default = getattr(model, key), getattr(model, key) == getattr(ModelConfig, key)
        if key not in taken and not is_default:
            others = ", ".join(other for other, keys in TAKEN.items() if key in keys)
            raise FaceError(
                f"model.{key} is an option only of {others}. Received: {key}={value!r} for {name}. Leave this "
                "option out."
            )
        if not is_default:  # the defaults of a builder may differ: mbf pads, and ghostfacenet_v1 is wider, as published
            options[key] = value
    if model.size != ModelConfig().size:
        options["image_size"] = model.size
    if model.pixels != "own":
        options["pixel_mean"], options["pixel_std"] = PIXEL_SCALINGS[model.pixels]
    if model.activation == "own" and name not in KEEP_ACTIVATION:
        raise FaceError(
            f"model.activation = 'own' works only with {', '.join(KEEP_ACTIVATION)}. Received: {name}. Choose a "
            "different activation."
        )
    for family, names in FAMILIES.items():
        if name in names:
            return builders[family](name, **options)
    if name in IRESNETS:
        return builders["iresnet"](int(name.removeprefix("iresnet")), **options)
    return builders[name](**options)

"""The backbones by the names that recipes give them. No TensorFlow."""

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

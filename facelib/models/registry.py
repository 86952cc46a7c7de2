"""A recipe's [model] table -> a call of the right builder. No TensorFlow: scripts, which may import them, give them."""

from collections.abc import Callable, Mapping

from facelib.errors import FaceError
from facelib.models.backbone_names import APPLICATIONS, IRESNETS, OPTIONAL, TAKEN
from facelib.training.recipe.schema import ModelConfig


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

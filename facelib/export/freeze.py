"""From an .h5 file to a frozen graph: what a model must be for it. Names TensorFlow, through Keras."""

from pathlib import Path

from facelib.errors import FaceError
from facelib.runtimes.frozen_graph import freeze
from facelib.runtimes.keras_h5 import load_model


def freeze_file(path: Path):
    """(Keras model computing in float32, its GraphDef, (height, width) of its input in pixels).

    Raises:
        FaceError: no embedder of RGB images, or PReLU slopes above 1.
    """
    model = in_float32(load_model(path))
    size = check_model(model, path)
    check_slopes(model, path)
    return model, freeze(model), size


def in_float32(model):
    """The model with every layer computing in float32: mixed precision is for training, and for GPUs."""
    import keras

    for layer in model.layers:
        if layer.compute_dtype != "float32":
            layer.dtype_policy = keras.DTypePolicy("float32")
    return model


def check_model(model, path: Path) -> tuple[int, int]:
    """(height, width) of the model's one RGB input; a FaceError where it is no embedder."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise FaceError(
            f"An embedder has one input and one output. '{path}' has {len(model.inputs)} and {len(model.outputs)}: "
            f"name the embedder.h5 of the run, which has no training head."
        )
    takes, gives = tuple(model.inputs[0].shape), tuple(model.outputs[0].shape)
    if len(takes) != 4 or takes[3] != 3 or None in takes[1:] or len(gives) != 2 or gives[1] is None:
        raise FaceError(f"An embedder maps [N, H, W, 3] to [N, D]. '{path}' maps {list(takes)} to {list(gives)}.")
    return takes[1:3]


def check_slopes(model, path: Path) -> None:
    """Refuses PReLU slopes above 1: our graph says max(x, slope * x), which is PReLU only up to there."""
    from facelib.models.layers import PReLU

    for layer in model.layers:
        if isinstance(layer, PReLU) and (steepest := float(layer.alpha.numpy().max())) > 1:
            raise FaceError(
                f"PReLU slopes are at most 1. '{path}' has {steepest:.4f} in layer '{layer.name}': train it again with "
                f"facelib.models.layers.PReLU, which keeps them there."
            )


def model_call(model):
    """The model as a function of arrays, in inference mode."""
    return lambda pixels: model(pixels, training=False).numpy()

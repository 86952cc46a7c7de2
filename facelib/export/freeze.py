"""Freezes a Keras model (.h5) as a TensorFlow graph, after checking that it is an embedder that can be exported."""

from pathlib import Path

from facelib.errors import FaceError
from facelib.runtimes.frozen_graph import INPUT, OUTPUT, prune
from facelib.runtimes.keras_h5 import check_model, in_float32, load_model


def freeze_file(path: Path):
    """Loads and freezes the embedder at `path`.

    Returns:
        The Keras model, computing in float32; its GraphDef; (height, width) of its input in pixels.

    Raises:
        FaceError: no embedder of RGB images, or PReLU slopes above 1.
    """
    model = in_float32(load_model(path))
    size = check_model(model, path)
    check_slopes(model, path)
    return model, freeze(model), size


def check_slopes(model, path: Path) -> None:
    """Refuses PReLU slopes above 1. The graph computes max(x, slope * x), which equals PReLU up to slope 1 only."""
    from facelib.models.layers import PReLU

    for layer in model.layers:
        if isinstance(layer, PReLU) and (steepest := float(layer.alpha.numpy().max())) > 1:
            raise FaceError(
                f"PReLU slopes must be at most 1. '{path}' has the slope {steepest:.4f} in layer '{layer.name}': "
                "train the model again with facelib.models.layers.PReLU, which limits the slopes."
            )


def model_call(model):
    """The model as a function of arrays, in inference mode."""
    return lambda pixels: model(pixels, training=False).numpy()


def freeze(model):
    """The GraphDef of a Keras model, with variables as constants.

    The input is the Placeholder `input_1`, float32 [None, H, W, 3]. The output is the node `embeddings`, float32
    [None, D], before L2 normalisation.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    def forward(input_1):
        return tf.identity(model(input_1, training=False), name=OUTPUT)

    spec = tf.TensorSpec([None, *model.inputs[0].shape[1:]], tf.float32, name=INPUT)
    frozen = convert_variables_to_constants_v2(tf.function(forward, autograph=False).get_concrete_function(spec))
    return prune(frozen.graph.as_graph_def(), [OUTPUT])

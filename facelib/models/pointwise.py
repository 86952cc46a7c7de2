"""1x1 convolutions as matrix products, for training on a CPU.

A 1x1 convolution of stride 1 is the product of the pixels [N H W, C] and the kernel [C, F], and both gradients are
products too. There oneDNN is faster than in its convolutions: most of all in the gradient of the kernel.
"""

import keras
import tensorflow as tf

from facelib.tensorflow_env import has_gpu


def use_products(model: keras.Model) -> None:
    """Makes every 1x1 convolution of a model that has stride 1 and no groups compute as a matrix product.

    Only this model object computes so. The layers stay `Conv2D`, and so does what is saved or exported. Nothing changes
    on a GPU.

    Args:
        model: the embedder that is trained; channels last.
    """
    if has_gpu():
        return
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D) and _is_pointwise(layer):
            layer.convolution_op = _product  # Keras's own place for another way to convolve


def _is_pointwise(layer: keras.layers.Conv2D) -> bool:
    return (
        layer.kernel_size == (1, 1)
        and layer.strides == (1, 1)
        and layer.groups == 1
        and layer.data_format == "channels_last"
    )


def _product(x, kernel):
    """Float [N, H, W, C] and [1, 1, C, F] -> [N, H, W, F]."""
    kernel = tf.convert_to_tensor(kernel)
    channels, filters = kernel.shape[2:]
    y = tf.matmul(tf.reshape(x, [-1, channels]), tf.reshape(kernel, [channels, filters]))
    return tf.reshape(y, [tf.shape(x)[0], *x.shape[1:3], filters])

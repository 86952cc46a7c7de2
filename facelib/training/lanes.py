"""Lanes: parts of a batch go through the network side by side on a CPU, each on one thread.

All cores on one operation wait for each other after each of them, and every operation passes over the whole batch,
which no cache holds. In lanes, a core takes one part through all layers. Batch normalisation then uses the statistics
of each part, "ghost batch normalisation": Hoffer et al., https://arxiv.org/abs/1705.08741, algorithm 1.
"""

from dataclasses import dataclass

import keras
import tensorflow as tf

from facelib.models.layers import FusedBatchNorm


@dataclass(frozen=True)
class Lanes:
    """How the images of a step go through the network.

    The number of parts is that of the recipe, so the weights after a step do not depend on the number of lanes.

    Attributes:
        parts: into which the images are cut; 1 for the whole batch.
        count: parts that are computed at the same time.
    """

    parts: int = 1
    count: int = 1

    def embed(self, embedder: keras.Model, images, training: bool):
        """The embeddings of a batch, float [N, D], in the order of the images.

        Args:
            embedder: float raw RGB pixels [N, H, W, 3] -> embeddings [N, D].
            images: pixels, [N, H, W, 3].
            training: whether the layers are in their training mode.
        """
        if self.parts == 1:
            return embedder(images, training=training)
        norms = [layer for layer in embedder.layers if isinstance(layer, FusedBatchNorm)]
        for norm in norms:
            norm.begin_parts()
        try:
            pieces = self._in_parts(embedder, images, training)
        finally:
            for norm in norms:
                norm.end_parts()
        return tf.concat(pieces, 0)

    def _in_parts(self, embedder: keras.Model, images, training: bool) -> list:
        """The embeddings of each part. A part begins when the part before it in its lane has ended."""
        pieces: list = []
        num_images = tf.shape(images)[0]
        for part in range(self.parts):
            first, last = (tf.math.floordiv(k * num_images, self.parts) for k in (part, part + 1))
            before = pieces[part - self.count : part - self.count + 1] if part >= self.count else []
            with tf.control_dependencies(before):
                pixels = tf.identity(images[first:last])
            pieces.append(embedder(pixels, training=training))
        return pieces


WHOLE_BATCH = Lanes()

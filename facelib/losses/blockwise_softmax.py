"""The softmax over many classes, block by block of them. Names TensorFlow.

Where a margin changes one logit a face, its own, a loss needs of all the others but their sum. Written op by op, that
sum and its gradient are a dozen passes over arrays of [B, n] and [n, D], and as many arrays; here each block of classes
takes them while it is in the cache, and two arrays of [B, n] and the gradient outlive it. On a CPU with a compiler,
facelib/losses/native_softmax.py does the same in two passes.
"""

from itertools import pairwise

import tensorflow as tf

from facelib.losses.native_softmax import Tiles, has_tiles

_WIDTH, _MOST = 16_384, 32  # classes in a block; blocks at most, for each is some twenty nodes of the graph
_BESIDE = 200.0  # how far the own class is put below any other logit: float32's exp of it is 0


def own_and_others(x, centres, own, scale, num_classes: int):
    """What a loss needs of the cosines between faces and class centres.

    With r = 1 / |w|, the gradient of the cosine `x . w r` by w is `r x - (x . w r) r^2 w`.

    Args:
        x: float32 [B, D], unit rows.   centres: float32 [n, D], of any norm.   scale: of the logits, positive.
        own: int64 [B], the column of each row's class; -1 when it is not here.
        num_classes: about how many there are, n; decides between tiles and blocks, and the number of blocks.

    Returns:
        (cosine to the own class, 0 where it is not here, with a gradient;
        ln of the sum over the other classes of `exp(scale * cosine)`, with a gradient;
        the highest cosine to another class): float32 [B] each.
    """
    scale = tf.convert_to_tensor(scale, tf.float32)

    @tf.custom_gradient
    def of(x, centres):
        if has_tiles(num_classes, centres.shape[-1]):
            others = Tiles(x, centres, own, scale)
        else:
            others = Blocks(x, centres, own, scale, min(max(1, round(num_classes / _WIDTH)), _MOST))
        is_here = own >= 0
        row = tf.gather(centres, tf.maximum(own, 0))
        inverse = _inverse_norms(row)
        row *= inverse[:, None]
        cosine = tf.where(is_here, tf.reduce_sum(x * row, 1), 0.0)

        def gradient(of_cosine, of_log_sum, of_highest):
            of_cosine = tf.where(is_here, of_cosine, 0.0)
            of_own = (of_cosine * inverse)[:, None] * (x - cosine[:, None] * row)
            by_x, by_centres = others.gradient(scale * of_log_sum, of_own)
            return of_cosine[:, None] * row + by_x, by_centres

        return (cosine, others.log_sum, others.highest / scale), gradient

    cosine, log_sum, highest = of(x, centres)
    return cosine, log_sum, tf.stop_gradient(highest)


class Blocks:
    """All classes but each row's own.

    log_sum: [B], ln of the sum of exp(logit).   highest: [B], logit.
    """

    def __init__(self, x, centres, own, scale, num_blocks: int):
        self.x, self.scale = x, scale
        edges = [tf.shape(centres, tf.int64)[0] * i // num_blocks for i in range(num_blocks + 1)]
        self.blocks = []
        for first, last in pairwise(edges):
            with tf.control_dependencies([block.highest for block in self.blocks[-2:-1]]):  # two at once, and no more
                self.blocks.append(_Block(x * scale, centres[first:last], own - first, last - first, scale))
        self.log_sums = tf.stack([block.log_sum for block in self.blocks])
        self.log_sum = tf.reduce_logsumexp(self.log_sums, 0)
        self.highest = tf.reduce_max(tf.stack([block.highest for block in self.blocks]), 0)

    def gradient(self, weight, of_own):
        """By x and by the centres.

        weight: [B], the gradient of log_sum, times the scale.   of_own: [B, D], what is added to that of each row's own
            centre.
        """
        weights = tf.exp(self.log_sums - self.log_sum) * weight
        of_x, of_centres = [], []
        for block, share in zip(self.blocks, tf.unstack(weights), strict=True):
            with tf.control_dependencies(of_centres[-2:-1]):
                by_x, by_centres = block.gradient(self.x, share, self.scale, of_own)
            of_x.append(by_x)
            of_centres.append(by_centres)
        return tf.add_n(of_x), tf.concat(of_centres, 0)


class _Block:
    """A block of classes in a step. `own`: int64 [B], counted from the block's first; may lie outside."""

    def __init__(self, scaled, centres, own, width, scale):
        self.centres, self.inverse = centres, _inverse_norms(centres)
        self.faces = tf.reshape(tf.where((own >= 0) & (own < width)), [-1])  # of this block's classes
        self.own = tf.gather(own, self.faces)
        logits = tf.matmul(scaled, centres, transpose_b=True) * self.inverse
        # A copy, as below: what is written in place, another loss of the same faces may share, as mixup has two.
        place, below = tf.stack([self.faces, self.own], 1), tf.fill([tf.size(self.faces)], -scale - _BESIDE)
        self.logits = tf.tensor_scatter_nd_update(logits, place, below)
        self.softmax = tf.nn.softmax(self.logits)  # one op for what would be five passes
        self.highest = tf.reduce_max(self.logits, 1)
        self.log_sum = self.highest - tf.math.log(tf.reduce_max(self.softmax, 1))

    def gradient(self, x, weight, scale, of_own):
        """By x and by the centres, where `weight` [B] stands before this block's softmax.

        of_own: [B, D], the gradient of each row's own centre that does not come from the softmax.
        """
        shares = self.softmax * self.inverse
        pull = tf.linalg.matvec(shares * self.logits, weight / scale, transpose_a=True) * self.inverse
        by_centres = tf.matmul(shares, weight[:, None] * x, transpose_a=True) - pull[:, None] * self.centres
        by_centres = tf.tensor_scatter_nd_add(by_centres, self.own[:, None], tf.gather(of_own, self.faces))
        return weight[:, None] * tf.matmul(shares, self.centres), by_centres


def _inverse_norms(rows):
    return 1.0 / tf.maximum(tf.raw_ops.EuclideanNorm(input=rows, axis=1), 1e-6)

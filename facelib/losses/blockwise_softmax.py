"""The softmax over many classes, computed block by block.

When the margin changes only the target logit, the loss needs two things: the target logit, and the sum of the
exponentials of all other logits. Computed op by op over all classes, that sum and its gradient take a dozen passes over
arrays of [B, n] and [n, D], and as many arrays. Here each block of classes takes these passes while it is in the cache.
Two arrays of [B, n] and the gradient stay in memory.
"""

from itertools import pairwise

import tensorflow as tf

from facelib.tensorflow_env import has_gpu, is_for_xla

_BLOCK = 16_384  # classes in a block, which fits into the cache of a CPU
_GPU_BLOCK = 131_072  # fewer operations, each for more threads
_MOST_BLOCKS = 32  # each block is some twenty nodes of the graph
_BELOW = 200.0  # how far the target logit is put below any other: exp() of it is 0 in float32


def target_and_others(x, centres, target_idx, scale, num_classes: int):
    """What a loss needs of the cosines between faces and class centres.

    With r = 1 / |w|, the gradient of the cosine `x . w r` by w is `r x - (x . w r) r^2 w`.

    Args:
        x: float32 [B, D], rows of unit norm.
        centres: float32 [n, D], of any norm.
        target_idx: int64 [B], the row of each face's class in `centres`; -1 when another worker holds it.
        scale: of the logits, positive.
        num_classes: n, or about n; it decides the number of blocks.

    Returns:
        (cosine, log_sum, highest), float32 [B] each: the cosine to the target class, 0 where it is not here; the
        logarithm of the sum of `exp(scale * cosine)` over the other classes; the highest cosine to another class. The
        first two have a gradient.
    """
    scale = tf.convert_to_tensor(scale, tf.float32)

    @tf.custom_gradient
    def compute(x, centres):
        others = _Blocks(x, centres, target_idx, scale, _num_blocks(num_classes))
        is_here = target_idx >= 0
        row = tf.gather(centres, tf.maximum(target_idx, 0))
        inverse = _inverse_norms(row)
        row *= inverse[:, None]
        cosine = tf.where(is_here, tf.reduce_sum(x * row, 1), 0.0)

        def gradient(by_cosine, by_log_sum, by_highest):
            by_cosine = tf.where(is_here, by_cosine, 0.0)
            by_target = (by_cosine * inverse)[:, None] * (x - cosine[:, None] * row)
            by_x, by_centres = others.gradient(scale * by_log_sum, by_target)
            return by_cosine[:, None] * row + by_x, by_centres

        return (cosine, others.log_sum, others.highest / scale), gradient

    cosine, log_sum, highest = compute(x, centres)
    return cosine, log_sum, tf.stop_gradient(highest)


def _num_blocks(num_classes: int) -> int:
    return min(max(1, round(num_classes / (_GPU_BLOCK if has_gpu() else _BLOCK))), _MOST_BLOCKS)


class _Blocks:
    """All classes but the target of each row.

    Attributes:
        log_sum: float32 [B], the logarithm of the sum of exp(logit).
        highest: float32 [B], the highest logit.
    """

    def __init__(self, x, centres, target_idx, scale, num_blocks: int):
        self.x, self.scale = x, scale
        num_classes = centres.shape[0] or tf.shape(centres)[0]
        edges = [num_classes * i // num_blocks for i in range(num_blocks + 1)]  # not int64: a slice is cut by the host
        self.blocks: list[_Block] = []
        for first, last in pairwise(edges):
            with tf.control_dependencies([block.highest for block in self.blocks[-2:-1]]):  # at most two at a time
                here = target_idx - tf.cast(first, tf.int64)
                self.blocks.append(_Block(x * scale, centres[first:last], here, tf.cast(last - first, tf.int64), scale))
        self.log_sums = tf.stack([block.log_sum for block in self.blocks])
        self.log_sum = tf.reduce_logsumexp(self.log_sums, 0)
        self.highest = tf.reduce_max(tf.stack([block.highest for block in self.blocks]), 0)

    def gradient(self, weight, by_target):
        """The gradients by x [B, D] and by the centres [n, D].

        Args:
            weight: float32 [B], the gradient of log_sum times the scale.
            by_target: float32 [B, D], added to the gradient of the target centre of each row.
        """
        weights = tf.exp(self.log_sums - self.log_sum) * weight
        all_by_x: list[tf.Tensor] = []
        all_by_centres: list[tf.Tensor] = []
        for block, share in zip(self.blocks, tf.unstack(weights), strict=True):
            with tf.control_dependencies(all_by_centres[-2:-1]):
                by_x, by_centres = block.gradient(self.x, share, self.scale, by_target)
            all_by_x.append(by_x)
            all_by_centres.append(by_centres)
        return tf.add_n(all_by_x), tf.concat(all_by_centres, 0)


class _Block:
    """One block of classes.

    Args:
        scaled: float32 [B, D], unit rows times the scale.
        centres: float32 [w, D], the centres of the block.
        target_idx: int64 [B], counted from the first class of the block; it may lie outside the block.
        width: int64 scalar, w.
        scale: of the logits.
    """

    def __init__(self, scaled, centres, target_idx, width, scale):
        self.centres, self.inverse = centres, _inverse_norms(centres)
        self.faces = tf.reshape(tf.where((target_idx >= 0) & (target_idx < width)), [-1])  # targets in this block
        self.target_idx = tf.gather(target_idx, self.faces)
        logits = tf.matmul(scaled, centres, transpose_b=True) * self.inverse
        # A copy, never an update in place: with mixup, a second loss of the same faces may share the array.
        place, below = tf.stack([self.faces, self.target_idx], 1), tf.fill([tf.size(self.faces)], -scale - _BELOW)
        self.logits = tf.tensor_scatter_nd_update(logits, place, below)
        self.softmax = tf.nn.softmax(self.logits)  # one op in place of five passes
        self.highest = tf.reduce_max(self.logits, 1)
        self.log_sum = self.highest - tf.math.log(tf.reduce_max(self.softmax, 1))

    def gradient(self, x, weight, scale, by_target):
        """The gradients by x [B, D] and by the centres of the block [w, D].

        Args:
            x: float32 [B, D], unit rows.
            weight: float32 [B], the factor of this block's softmax.
            scale: of the logits.
            by_target: float32 [B, D], the part of the gradient of each target centre that is not of the softmax.
        """
        shares = self.softmax * self.inverse
        pull = tf.linalg.matvec(shares * self.logits, weight / scale, transpose_a=True) * self.inverse
        by_centres = tf.matmul(shares, weight[:, None] * x, transpose_a=True) - pull[:, None] * self.centres
        by_centres = tf.tensor_scatter_nd_add(by_centres, self.target_idx[:, None], tf.gather(by_target, self.faces))
        return weight[:, None] * tf.matmul(shares, self.centres), by_centres


def _inverse_norms(rows):
    norms = tf.norm(rows, axis=1) if is_for_xla() else tf.raw_ops.EuclideanNorm(input=rows, axis=1)  # one pass
    return 1.0 / tf.maximum(norms, 1e-6)

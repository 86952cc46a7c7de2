"""What all heads with class centres share: centres, cosines to them, softmax loss and margin warm-up."""

import random

import keras
import tensorflow as tf

from facelib.losses.blockwise_softmax import target_and_others
from facelib.losses.partial_fc import ClassSplit, SampledClasses, initial_centres, sample_classes
from facelib.losses.rows import at_columns, by_row, places

# Inside the square root of sin = sqrt(1 - cos^2): keeps d(sin)/d(cos) finite at cos = +-1 and of the right sign. At
# this size sin is off by less than 1e-4 within 0.006 degrees of the poles and by nothing float32 can hold elsewhere.
SIN_EPSILON = 1e-8
_BLOCK = 16_384  # classes whose initial centres are made at once


def sin_of(cos):
    """sqrt(1 - cos^2), with a finite gradient everywhere on [-1, 1]."""
    return tf.sqrt(tf.maximum(1.0 - tf.square(cos), 0.0) + SIN_EPSILON)


def unit_rows(x, axis=-1):
    """`x` scaled to unit L2 norm along `axis`; zero vectors stay zero and have a finite gradient."""
    return x * tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(x), axis, keepdims=True), 1e-12))


@tf.custom_gradient
def _products_with_unit_rows(x, centres):
    """`x @ unit_rows(centres)^T`: [B, D], [n, D] -> [B, n], without a second copy of all centres.

    With r = 1 / |w|, the gradient of `x . w r` by w is `r x - (x . w r) r^2 w`. With many classes, a step spends its
    time on passes over the centres and the cosines, and its memory on copies of them.
    """
    inverse = tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(centres), 1), 1e-12))
    products = tf.matmul(x, centres, transpose_b=True) * inverse

    def gradient(upstream):
        pull = tf.reduce_sum(upstream * products, 0) * tf.square(inverse)
        scaled = upstream * inverse
        return tf.matmul(scaled, centres), tf.matmul(scaled, x, transpose_a=True) - pull[:, None] * centres

    return products, gradient


class MarginHead(keras.layers.Layer):
    """Class centres and a softmax over the cosines to them. A subclass puts its margin on the target in `apply_margin`.

    Computes in float32 under any dtype policy: with scale 64, float16 cannot separate cos 0.9995 and 1. The margin is
    written to one column of each row, so no one-hot matrix of num_classes columns is made.

    A head of many classes is split over the workers, or uses a share of its classes in each step: set
    `head.split = ClassSplit(...)` before the layer is built (facelib/losses/partial_fc.py).

    Args:
        num_classes: C, at least 2.
        scale: logit radius s.
        sub_centres: K centres for each class, of which the nearest counts (Deng et al., Sub-center ArcFace,
            https://www.ecva.net/papers/eccv_2020/papers_ECCV/papers/123560715.pdf, eq. 3).
        interclass_filtering: other classes with a cosine above this count as cosine 0, because they are probably the
            same person under another label (InsightFace, arcface_torch/losses.py); 0 for none.
        warmup_scale: the scale at margin_share 0; None for a constant scale.

    Call: `(embeddings float [B, D], labels int [B], margin_share=1.0) -> (logits, cosines)`, both float32 [B, C]; the
    cosines are without margin and scale. `margin_share` in [0, 1] is a float or a scalar tensor: the margin is
    multiplied by it, and with it the scale rises from warmup_scale.

    Attributes:
        centres: variable [held classes * K, D]; D is the size of an embedding.
        split: which classes this worker holds, and the share of them in a step.
        has_class_centres: True; see `facelib.losses.protocols.Loss`.
        changes_other_logits: True in a subclass whose logits of other classes are more than their cosines times the
            scale. Such a head needs all logits at once; every other one computes its softmax block by block.
        stops_norm_gradient: True in a subclass that uses the embedding's norm as a weight and does not train it.
    """

    has_class_centres = True
    changes_other_logits = False
    stops_norm_gradient = False

    def __init__(self, num_classes, scale=64.0, sub_centres=1, interclass_filtering=0.0, warmup_scale=None, **kwargs):
        super().__init__(dtype="float32", **{k: v for k, v in kwargs.items() if k != "dtype"})
        if num_classes < 2:
            raise ValueError(f"num_classes is at least 2. Received: num_classes={num_classes}")
        if not scale > 0:
            raise ValueError(f"scale is a positive number. Received: scale={scale}")
        self.num_classes, self.scale, self.warmup_scale = num_classes, scale, warmup_scale
        self.sub_centres, self.interclass_filtering = sub_centres, interclass_filtering
        self.split = ClassSplit()

    # ------------------------------------------------------------------ what a subclass replaces

    def build_state(self):
        """Makes the weights that a subclass keeps beside the centres; no gradient reaches them."""

    def apply_margin(self, cos, norms, margin_share, training):
        """The target cosine with the margin.

        Args:
            cos: float32 [B], cosine to the target class.
            norms: float32 [B], of the raw embeddings.
            margin_share: in [0, 1], a factor of the margin.
            training: whether running statistics are updated.

        Returns:
            float32 [B], the value that takes the place of `cos` in the softmax.
        """
        return cos

    def other_cosines(self, cosines, with_margin, target_cos, training):
        """The values that the softmax uses for the other classes. A subclass sets `changes_other_logits` with it.

        Args:
            cosines: float32 [B, n].
            with_margin: float32 [B], from `apply_margin`.
            target_cos: float32 [B], cosine to the target class.
            training: whether running statistics are updated.

        Returns:
            float32 [B, n]; the columns of the target classes are not used.
        """
        return cosines

    def regularizer(self, norms):
        """A scalar that is added to the loss, from the norms of the embeddings [B]."""
        return 0.0

    def scale_at(self, margin_share):
        """The scale of the logits at this margin_share."""
        if self.warmup_scale is None:
            return self.scale
        return self.warmup_scale + (self.scale - self.warmup_scale) * margin_share

    # ------------------------------------------------------------------ the layer

    def build(self, embeddings_shape, labels_shape=None):
        first, last = self.split.bounds(self.num_classes)
        seed, each, size = random.randrange(2**31), self.sub_centres, embeddings_shape[-1]
        self.centres = self.add_weight(name="centres", shape=((last - first) * each, size), initializer="zeros")
        for start in range(first, last, _BLOCK):  # block by block: an initializer would hold all of them three times
            stop = min(start + _BLOCK, last)
            rows = tf.range((start - first) * each, (stop - first) * each, dtype=tf.int64)
            values = initial_centres(seed, start, stop, each * size).reshape(-1, size)
            self.centres.value.scatter_update(tf.IndexedSlices(values, rows))
        # scatter_update has turned copy-on-read on for good: turn it off.
        tf.raw_ops.DisableCopyOnRead(resource=self.centres.value.handle)
        self.build_state()

    def build_on(self, previous):
        """Like `build`, with the class centres of another head of the same shape: the next stage of a training."""
        self.centres = previous.centres
        self.build_state()
        self.built = True

    def call(self, embeddings, labels, margin_share=1.0):
        sampled = SampledClasses(tf.convert_to_tensor(self.centres.value), 0, self.num_classes)
        return self._logits(embeddings, labels, margin_share, sampled, training=False)[:2]

    def sample(self, labels, step=0) -> SampledClasses:
        """The classes of a step; see `facelib.losses.protocols.MarginLoss`."""
        return sample_classes(self.split, self.centres, self.num_classes, labels, step)

    def loss_and_accuracy(self, embeddings, labels, margin_share=1.0, label_smoothing=0.0, sampled=None):
        """Mean softmax cross-entropy with the margin; share of faces nearest to their target centre *without* it.

        With the margin, the accuracy starts at 0 and stays low for long, which is often mistaken for a failure. Only
        this method updates the running statistics of a head.

        Args:
            embeddings: float [B, D], of all workers' faces.
            labels: int64 [B], of all workers' faces.
            margin_share: in [0, 1], as in the call.
            label_smoothing: share of the target that is spread evenly over all classes (Szegedy et al.,
                https://arxiv.org/abs/1512.00567, section 7).
            sampled: the classes of this step, from `sample`; None for those of step 0.

        Returns:
            (loss, accuracy), float32 scalars.
        """
        sampled = self.sample(labels) if sampled is None else sampled
        embeddings = tf.cast(embeddings, tf.float32)
        if self.runs_by_blocks(label_smoothing):
            losses, is_right = self._by_blocks(embeddings, sampled.find(labels), margin_share, sampled)
        else:
            losses, is_right = self._by_logits(embeddings, labels, margin_share, label_smoothing, sampled)
        extra = self.regularizer(tf.norm(embeddings, axis=-1))
        loss = tf.reduce_mean(losses) + self.split.workers.once(extra)
        return loss, tf.reduce_mean(tf.cast(is_right, tf.float32))

    def runs_by_blocks(self, label_smoothing=0.0) -> bool:
        """Whether the softmax is computed block by block, without all logits at once."""
        needs_all_logits = self.changes_other_logits or self.sub_centres > 1 or self.interclass_filtering
        return not needs_all_logits and not label_smoothing

    def _by_blocks(self, embeddings, target_idx, margin_share, sampled):
        """(Loss of each row, whether its target class is the nearest), without all logits at once."""
        workers, scale = self.split.workers, self.scale_at(margin_share)
        cosine, log_sum, highest = target_and_others(
            unit_rows(embeddings), sampled.centres, target_idx, scale, self.split.num_sampled(self.num_classes)
        )
        cosine = tf.clip_by_value(workers.sum(cosine, by_face=True), -1.0, 1.0)
        norms = self._norms(embeddings)
        if self._is_split:  # every worker computes the margin; only the one with the target class trains the norm
            norms = tf.where(target_idx >= 0, norms, tf.stop_gradient(norms))
        logit = scale * self.apply_margin(cosine, norms, margin_share, training=True)
        losses = tf.nn.softplus(self.log_sum_exp(log_sum[:, None]) - logit)
        return losses, cosine > workers.max(highest)

    def _by_logits(self, embeddings, labels, margin_share, label_smoothing, sampled):
        """The same as `_by_blocks`, for any head."""
        logits, cosines, target_idx = self._logits(embeddings, labels, margin_share, sampled, training=True)
        losses = self.log_sum_exp(logits) - self._target_values(logits, target_idx)
        if label_smoothing:
            mean = self.split.workers.sum(by_row(tf.reduce_sum, logits), by_face=True) / self.num_classes
            losses = (1.0 - label_smoothing) * losses + label_smoothing * (self.log_sum_exp(logits) - mean)
        others = self.put_target(cosines, target_idx, tf.fill([tf.size(target_idx)], cosines.dtype.min))
        return losses, self._target_values(cosines, target_idx) > self.split.workers.max(tf.reduce_max(others, -1))

    @property
    def _is_split(self) -> bool:
        return self.split.workers.count > 1

    def _logits(self, embeddings, labels, margin_share, sampled, training):
        embeddings = tf.cast(embeddings, tf.float32)
        target_idx = sampled.find(labels)
        cosines = self.cosines(embeddings, sampled.centres)
        logits = self.margin_logits(cosines, target_idx, self._norms(embeddings), margin_share, training)
        return logits, cosines, target_idx

    def _norms(self, embeddings):
        return tf.norm(tf.stop_gradient(embeddings) if self.stops_norm_gradient else embeddings, axis=-1)

    # ------------------------------------------------------------------ parts of the softmax

    def cosines(self, embeddings, centres):
        """Cosine of each embedding to the nearest centre of each class: [B, D], [n * K, D] -> float32 [B, n]."""
        cosines = tf.clip_by_value(_products_with_unit_rows(unit_rows(embeddings), centres), -1.0, 1.0)
        if self.sub_centres > 1:
            cosines = by_row(tf.reduce_max, tf.reshape(cosines, [tf.shape(cosines)[0], -1, self.sub_centres]))
        return cosines

    def margin_logits(self, cosines, target_idx, norms, margin_share=1.0, training=False):
        """Logits float32 [B, n] from cosines to any subset of the classes.

        Args:
            cosines: float32 [B, n].
            target_idx: int64 [B], the column of each row's class; -1 when another worker holds it.
            norms: float32 [B], of the raw embeddings.
            margin_share: in [0, 1].
            training: whether running statistics are updated.
        """
        target_cos = self._target_values(cosines, target_idx)
        with_margin = self.apply_margin(target_cos, norms, margin_share, training)
        others = self.other_cosines(cosines, with_margin, target_cos, training)
        if self.interclass_filtering:
            others = tf.where(cosines > self.interclass_filtering, 0.0, others)
        return self.scale_at(margin_share) * self.put_target(others, target_idx, with_margin)

    def put_target(self, values, target_idx, new):
        """`values` [B, n] with `new` [B] in the target column of each row, where this worker holds the class."""
        column = tf.maximum(target_idx, 0)
        if self._is_split:
            new = tf.where(target_idx >= 0, new, at_columns(values, column))
        return tf.tensor_scatter_nd_update(values, places(column), new)

    def _target_values(self, values, target_idx):
        """The value in the target column of each row, from the worker that holds it: [B, n], int64 [B] -> [B]."""
        if not self._is_split:
            return at_columns(values, target_idx)
        held = at_columns(values, tf.maximum(target_idx, 0))
        return self.split.workers.sum(tf.where(target_idx >= 0, held, 0.0), by_face=True)

    def log_sum_exp(self, values, adds_gradients=False):
        """Logarithm of the sum of exp over the classes of all workers: [B, n] -> [B].

        Args:
            values: float32 [B, n], of this worker's classes.
            adds_gradients: False when all workers compute the same loss from the result. True when each worker uses
                the result for its classes only: then the gradients of the workers are added (see `Workers.sum`).
        """
        if not self._is_split:
            return by_row(tf.reduce_logsumexp, values)
        workers = self.split.workers
        highest = workers.max(tf.reduce_max(values, -1))
        sums = by_row(tf.reduce_sum, tf.exp(values - highest[:, None]))
        return highest + tf.math.log(workers.sum(sums, adds_gradients, by_face=True))

    def get_config(self):
        keys = ("num_classes", "scale", "sub_centres", "interclass_filtering", "warmup_scale")
        return {**super().get_config(), **{key: getattr(self, key) for key in keys}}

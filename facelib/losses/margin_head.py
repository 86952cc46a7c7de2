"""What all heads with class centres share: centres, cosines, the softmax loss, and its warm-up. Names TensorFlow."""

import random

import keras
import tensorflow as tf

from facelib.losses.blockwise_softmax import own_and_others
from facelib.losses.partial_fc import ClassSplit, Columns, draw_columns, first_centres

# Inside the square root of sin = sqrt(1 - cos^2): keeps d(sin)/d(cos) finite at cos = +-1 and of the right sign. At
# this size sin is off by less than 1e-4 within 0.006 degrees of the poles and by nothing float32 can hold elsewhere.
SIN_EPSILON = 1e-8
_BLOCK = 16_384  # classes whose first centres are made at once


def sin_of(cos):
    """sqrt(1 - cos^2), with a finite gradient everywhere on [-1, 1]."""
    return tf.sqrt(tf.maximum(1.0 - tf.square(cos), 0.0) + SIN_EPSILON)


def unit_rows(x, axis=-1):
    """`x` scaled to unit L2 norm along `axis`; zero vectors stay zero and have a finite gradient."""
    return x * tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(x), axis, keepdims=True), 1e-12))


@tf.custom_gradient
def _products_with_unit_rows(x, centres):
    """`x @ unit_rows(centres)^T`: [B, D], [n, D] -> [B, n], without a second copy of all centres.

    With r = 1 / |w|, the gradient of `x . w r` by w is `r x - (x . w r) r^2 w`: a step's time at many classes goes into
    passes over the centres and the cosines, and memory into copies of them.
    """
    inverse = tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(centres), 1), 1e-12))
    products = tf.matmul(x, centres, transpose_b=True) * inverse

    def gradient(upstream):
        pull = tf.reduce_sum(upstream * products, 0) * tf.square(inverse)
        scaled = upstream * inverse
        return tf.matmul(scaled, centres), tf.matmul(scaled, x, transpose_a=True) - pull[:, None] * centres

    return products, gradient


class MarginHead(keras.layers.Layer):
    """Class centres and a softmax over the cosines to them; what is done to the true class is a subclass's `apply_margin`.

    Computes in float32 under any dtype policy: with scale 64, float16 cannot separate cos 0.9995 and 1. The margin is
    put on one column a row by a scatter, so no one-hot matrix of num_classes columns is made.

    Args:
        num_classes: C, at least 2.
        scale: logit radius s.
        sub_centres: K centres a class, of which the nearest counts (Deng et al., Sub-center ArcFace,
            https://www.ecva.net/papers/eccv_2020/papers_ECCV/papers/123560715.pdf, eq. 3).
        interclass_filtering: other classes nearer than this cosine count as cosine 0, for they are likely the same
            person under another label (InsightFace, arcface_torch/losses.py); 0 for none.
        warmup_scale: the scale at margin_share 0; absent, the scale does not rise.

    A head of many classes is split over the workers, or looks at a share of its classes in each step, after
    `head.split = ClassSplit(...)`, before it is built (facelib/losses/partial_fc.py).

    Call: `(embeddings float [B, D], labels int [B], margin_share=1.0) -> (logits, cosines)`, both float32 [B, C]; cosines are
        without margin and scale. `margin_share` in [0, 1], a float or scalar tensor: margins are multiplied by it and the
        scale rises from warmup_scale with it.
    """

    def __init__(self, num_classes, scale=64.0, sub_centres=1, interclass_filtering=0.0, warmup_scale=None, **kwargs):
        super().__init__(dtype="float32", **{k: v for k, v in kwargs.items() if k != "dtype"})
        if num_classes < 2:
            raise ValueError(f"num_classes is at least 2. Received: num_classes={num_classes}")
        if not scale > 0:
            raise ValueError(f"scale is a positive number. Received: scale={scale}")
        self.num_classes, self.scale, self.warmup_scale = num_classes, scale, warmup_scale
        self.sub_centres, self.interclass_filtering = sub_centres, interclass_filtering
        self.split = ClassSplit()

    def build(self, embeddings_shape, labels_shape=None):
        first, last = self.split.bounds(self.num_classes)
        seed, each, size = random.randrange(2**31), self.sub_centres, embeddings_shape[-1]
        self.centres = self.add_weight(name="centres", shape=((last - first) * each, size), initializer="zeros")
        for start in range(first, last, _BLOCK):  # block by block: an initializer would hold all of them three times
            stop = min(start + _BLOCK, last)
            rows = tf.range((start - first) * each, (stop - first) * each, dtype=tf.int64)
            values = first_centres(seed, start, stop, each * size).reshape(-1, size)
            self.centres.value.scatter_update(tf.IndexedSlices(values, rows))
        tf.raw_ops.DisableCopyOnRead(resource=self.centres.value.handle)  # which scatter_update has set, for ever
        self.build_state()

    def build_on(self, previous):
        """As `build`, with the centres of another head of the same shape: a staged schedule goes on from them."""
        self.centres = previous.centres
        self.build_state()
        self.built = True

    def build_state(self):
        """Where a subclass makes what it keeps beside the centres: weights that no gradient reaches."""

    def call(self, embeddings, labels, margin_share=1.0):
        columns = Columns(tf.convert_to_tensor(self.centres.value), 0, self.num_classes)
        return self._logits(embeddings, labels, margin_share, columns, training=False)[:2]

    def columns(self, labels, step=0) -> Columns:
        """The classes of a step's softmax. labels: int64 [B], of all faces.   step: int64 scalar, decides the draw."""
        return draw_columns(self.split, self.centres, self.num_classes, labels, step)

    def loss_and_accuracy(self, embeddings, labels, margin_share=1.0, label_smoothing=0.0, columns=None):
        """Mean softmax cross-entropy with the margin, and the share of rows nearest to their own centre *without* it.

        With the margin the accuracy starts at 0 and stays low for long, which many take for a failure. Running
        statistics of a head are brought up to date here and nowhere else.

        Args and shapes: as the call, of all workers' faces. label_smoothing: share of the target that is spread evenly
            over all classes (Szegedy et al., https://arxiv.org/abs/1512.00567, section 7). columns: of `columns()`, for
            a sampled head. Returns two float32 scalars.
        """
        columns = self.columns(labels) if columns is None else columns
        embeddings = tf.cast(embeddings, tf.float32)
        if self.leaves_others and not label_smoothing:
            losses, is_right = self._by_blocks(embeddings, columns.find(labels), margin_share, columns)
        else:
            losses, is_right = self._by_logits(embeddings, labels, margin_share, label_smoothing, columns)
        extra = self.regularizer(tf.norm(embeddings, axis=-1))
        loss = tf.reduce_mean(losses) + self.split.workers.once(extra)
        return loss, tf.reduce_mean(tf.cast(is_right, tf.float32))

    @property
    def leaves_others(self) -> bool:
        """Whether the logits of other classes are their cosines times the scale."""
        names = ("cosines", "margin_logits", "others")
        is_changed = any(getattr(type(self), name) != getattr(MarginHead, name) for name in names)
        return not is_changed and self.sub_centres == 1 and not self.interclass_filtering

    def _by_blocks(self, embeddings, own, margin_share, columns):
        """Loss of each row, and whether its own class is the nearest: without all logits at once."""
        workers, scale = self.split.workers, self.scale_at(margin_share)
        cosine, log_sum, highest = own_and_others(
            unit_rows(embeddings), columns.centres, own, scale, self.split.num_sampled(self.num_classes)
        )
        cosine = tf.clip_by_value(workers.sum(cosine, by_face=True), -1.0, 1.0)
        norms = self._norms(embeddings)
        if self._is_split:  # all compute the margin alike: the gradient by the norms is that of the own class's worker
            norms = tf.where(own >= 0, norms, tf.stop_gradient(norms))
        logit = scale * self.apply_margin(cosine, norms, margin_share, training=True)
        losses = tf.nn.softplus(self.log_sum_exp(log_sum[:, None]) - logit)
        return losses, cosine > workers.max(highest)

    def _by_logits(self, embeddings, labels, margin_share, label_smoothing, columns):
        """As `_by_blocks`, for any head."""
        logits, cosines, own = self._logits(embeddings, labels, margin_share, columns, training=True)
        losses = self.log_sum_exp(logits) - self._own(logits, own)
        if label_smoothing:
            mean = self.split.workers.sum(tf.reduce_sum(logits, -1), by_face=True) / self.num_classes
            losses = (1.0 - label_smoothing) * losses + label_smoothing * (self.log_sum_exp(logits) - mean)
        others = self.put_own(cosines, own, tf.fill([tf.size(own)], cosines.dtype.min))
        return losses, self._own(cosines, own) > self.split.workers.max(tf.reduce_max(others, -1))

    @property
    def _is_split(self) -> bool:
        return self.split.workers.count > 1

    def _logits(self, embeddings, labels, margin_share, columns, training):
        embeddings = tf.cast(embeddings, tf.float32)
        own = columns.find(labels)
        cosines = self.cosines(embeddings, columns.centres)
        return self.margin_logits(cosines, own, self._norms(embeddings), margin_share, training), cosines, own

    def _norms(self, embeddings):
        return tf.norm(tf.stop_gradient(embeddings) if self.stops_norms else embeddings, axis=-1)

    def _own(self, values, own):
        """Of each row the value in its own column, from the worker that holds it: [B, n], int64 [B] -> [B]."""
        if not self._is_split:
            return tf.gather(values, own, batch_dims=1)
        held = tf.gather(values, tf.maximum(own, 0), batch_dims=1)
        return self.split.workers.sum(tf.where(own >= 0, held, 0.0), by_face=True)

    def log_sum_exp(self, values, adds_gradients=False):
        """ln of the sum of exp over all classes, of all workers: [B, n] -> [B].   adds_gradients: see `Workers.sum`."""
        if not self._is_split:
            return tf.reduce_logsumexp(values, -1)
        workers = self.split.workers
        highest = workers.max(tf.reduce_max(values, -1))
        sums = tf.reduce_sum(tf.exp(values - highest[:, None]), -1)
        return highest + tf.math.log(workers.sum(sums, adds_gradients, by_face=True))

    stops_norms = False  # whether the norm is a weight, as in AdaFace, or learned through, as in MagFace

    def cosines(self, embeddings, centres):
        """Cosine of each embedding to the nearest centre of each class: [B, D], [n * K, D] -> float32 [B, n]."""
        cosines = tf.clip_by_value(_products_with_unit_rows(unit_rows(embeddings), centres), -1.0, 1.0)
        if self.sub_centres > 1:
            cosines = tf.reduce_max(tf.reshape(cosines, [tf.shape(cosines)[0], -1, self.sub_centres]), -1)
        return cosines

    def margin_logits(self, cosines, own, norms, margin_share=1.0, training=False):
        """Logits from cosines; these may be of any subset of the classes.

        Args:
            cosines: float32 [B, n].   own: int64 [B], the column of each row's class; -1 when another worker has it.
            norms: float32 [B], of the raw embeddings.
        """
        target = self._own(cosines, own)
        turned = self.apply_margin(target, norms, margin_share, training)
        others = self.others(cosines, turned, target, training)
        if self.interclass_filtering:
            others = tf.where(cosines > self.interclass_filtering, 0.0, others)
        return self.scale_at(margin_share) * self.put_own(others, own, turned)

    def put_own(self, values, own, replaced):
        """`values` [B, n] with each row's own column `replaced` [B], where this worker has it."""
        column = tf.maximum(own, 0)
        if self._is_split:
            replaced = tf.where(own >= 0, replaced, tf.gather(values, column, batch_dims=1))
        place = tf.stack([tf.range(tf.size(own, tf.int64), dtype=tf.int64), column], axis=1)
        return tf.tensor_scatter_nd_update(values, place, replaced)

    def apply_margin(self, cos, norms, margin_share, training):
        """The cosine to the own centre [B] -> what stands in the softmax for it [B]."""
        return cos

    def others(self, cosines, turned, target, training):
        """The cosines to the other classes [B, C] -> what stands in the softmax for them; own columns are replaced."""
        return cosines

    def regularizer(self, norms):
        """What is added to the loss: a scalar of the embeddings' norms [B]."""
        return 0.0

    def scale_at(self, margin_share):
        """The scale at this margin_share."""
        if self.warmup_scale is None:
            return self.scale
        return self.warmup_scale + (self.scale - self.warmup_scale) * margin_share

    def get_config(self):
        names = ("num_classes", "scale", "sub_centres", "interclass_filtering", "warmup_scale")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

"""What all heads with class centres share: centres, cosines, the softmax loss, and its warm-up. Names TensorFlow."""

import keras
import tensorflow as tf

# Inside the square root of sin = sqrt(1 - cos^2): keeps d(sin)/d(cos) finite at cos = +-1 and of the right sign. At
# this size sin is off by less than 1e-4 within 0.006 degrees of the poles and by nothing float32 can hold elsewhere.
SIN_EPSILON = 1e-8


def sin_of(cos):
    """sqrt(1 - cos^2), with a finite gradient everywhere on [-1, 1]."""
    return tf.sqrt(tf.maximum(1.0 - tf.square(cos), 0.0) + SIN_EPSILON)


def unit_rows(x, axis=-1):
    """`x` scaled to unit L2 norm along `axis`; zero vectors stay zero and have a finite gradient."""
    return x * tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(x), axis, keepdims=True), 1e-12))


class MarginHead(keras.layers.Layer):
    """Class centres and a softmax over the cosines to them; what is done to the true class is a subclass's `turn`.

    Computes in float32 under any dtype policy: with scale 64, float16 cannot separate cos 0.9995 and 1. The margin is
    put on one column a row by a scatter, so no one-hot matrix of num_classes columns is made.

    Args:
        num_classes: C, at least 2.
        scale: logit radius s.
        sub_centres: K centres a class, of which the nearest counts (Deng et al., Sub-center ArcFace,
            https://www.ecva.net/papers/eccv_2020/papers_ECCV/papers/123560715.pdf, eq. 3).
        interclass_filtering: other classes nearer than this cosine count as cosine 0, for they are likely the same
            person under another label (InsightFace, arcface_torch/losses.py); 0 for none.
        warmup_scale: the scale at warmth 0; absent, the scale does not rise.

    Call: `(embeddings float [B, D], labels int [B], warmth=1.0) -> (logits, cosines)`, both float32 [B, C]; cosines are
        without margin and scale. `warmth` in [0, 1], a float or scalar tensor: margins are multiplied by it and the
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

    def build(self, embeddings_shape, labels_shape=None):
        self.centres = self.add_weight(
            name="centres",
            shape=(self.num_classes * self.sub_centres, embeddings_shape[-1]),
            initializer=keras.initializers.RandomNormal(0, 0.01),
        )
        self.build_state()

    def build_on(self, previous):
        """As `build`, with the centres of another head of the same shape: a staged schedule goes on from them."""
        self.centres = previous.centres
        self.build_state()
        self.built = True

    def build_state(self):
        """Where a subclass makes what it keeps beside the centres: weights that no gradient reaches."""

    def call(self, embeddings, labels, warmth=1.0):
        return self._logits(embeddings, labels, warmth, training=False)

    def loss_and_accuracy(self, embeddings, labels, warmth=1.0, label_smoothing=0.0):
        """Mean softmax cross-entropy with the margin, and the share of rows nearest to their own centre *without* it.

        With the margin the accuracy starts at 0 and stays low for long, which many take for a failure. Running
        statistics of a head are brought up to date here and nowhere else.

        Args and shapes: as the call. label_smoothing: share of the target that is spread evenly over all classes
            (Szegedy et al., https://arxiv.org/abs/1512.00567, section 7). Returns two float32 scalars.
        """
        labels = tf.cast(labels, tf.int32)
        logits, cosines = self._logits(embeddings, labels, warmth, training=True)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        if label_smoothing:
            spread = tf.reduce_logsumexp(logits, -1) - tf.reduce_mean(logits, -1)
            losses = (1.0 - label_smoothing) * losses + label_smoothing * spread
        loss = tf.reduce_mean(losses) + self.regularizer(tf.norm(tf.cast(embeddings, tf.float32), axis=-1))
        nearest = tf.argmax(cosines, axis=1, output_type=tf.int32)
        return loss, tf.reduce_mean(tf.cast(nearest == labels, tf.float32))

    def _logits(self, embeddings, labels, warmth, training):
        embeddings = tf.cast(embeddings, tf.float32)
        cosines = self.cosines(embeddings)
        norms = tf.norm(tf.stop_gradient(embeddings) if self.stops_norms else embeddings, axis=-1)
        return self.margin_logits(cosines, labels, norms, warmth, training), cosines

    stops_norms = False  # whether the norm is a weight, as in AdaFace, or learned through, as in MagFace

    def cosines(self, embeddings):
        """Cosine of each embedding to the nearest centre of each class: float32 [B, D] -> [B, C]."""
        centres = unit_rows(tf.convert_to_tensor(self.centres.value))
        cosines = tf.clip_by_value(tf.matmul(unit_rows(embeddings), centres, transpose_b=True), -1.0, 1.0)
        if self.sub_centres > 1:
            cosines = tf.reduce_max(tf.reshape(cosines, [-1, self.num_classes, self.sub_centres]), -1)
        return cosines

    def margin_logits(self, cosines, labels, norms, warmth=1.0, training=False):
        """Logits from cosines; these may be of any subset of the classes, with `labels` counted in it.

        Args:
            cosines: float32 [B, C].   labels: int [B].   norms: float32 [B], of the raw embeddings.
        """
        target_idx = tf.stack([tf.range(tf.shape(labels)[0]), tf.cast(labels, tf.int32)], axis=1)
        target = tf.gather_nd(cosines, target_idx)
        turned = self.turn(target, norms, warmth, training)
        others = self.others(cosines, turned, target, training)
        if self.interclass_filtering:
            others = tf.where(cosines > self.interclass_filtering, 0.0, others)
        return self.scale_at(warmth) * tf.tensor_scatter_nd_update(others, target_idx, turned)

    def turn(self, cos, norms, warmth, training):
        """The cosine to the own centre [B] -> what stands in the softmax for it [B]."""
        return cos

    def others(self, cosines, turned, target, training):
        """The cosines to the other classes [B, C] -> what stands in the softmax for them; own columns are replaced."""
        return cosines

    def regularizer(self, norms):
        """What is added to the loss: a scalar of the embeddings' norms [B]."""
        return 0.0

    def scale_at(self, warmth):
        """The scale at this warmth."""
        if self.warmup_scale is None:
            return self.scale
        return self.warmup_scale + (self.scale - self.warmup_scale) * warmth

    def get_config(self):
        names = ("num_classes", "scale", "sub_centres", "interclass_filtering", "warmup_scale")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

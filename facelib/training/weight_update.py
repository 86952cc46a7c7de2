"""The update of the weights in a step: gradient clipping, weight decay, the optimizer's step, the moving average (EMA).

The backbone may have a learning rate of its own. All of it is computed on groups of variables (variable_groups.py).
"""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from facelib.distributed.workers import ONE_WORKER, Workers
from facelib.losses.partial_fc import SampledClasses, rows_of
from facelib.models.layers import AtMostOne
from facelib.training.optimizers import DECOUPLED, RowOptimizer
from facelib.training.recipe.schema import Stage
from facelib.training.variable_groups import group_variables, in_order, is_by_value, optimizer_variables


def last_layers(embedder: keras.Model) -> list:
    """The trainable variables of the last layer that has a kernel: the layer after the global operator."""
    with_kernel = [layer for layer in embedder.layers if any(v.name == "kernel" for v in layer.trainable_variables)]
    return list(with_kernel[-1].trainable_variables) if with_kernel else []


def weight_decays(variables, last: Sequence, stage: Stage) -> list[float]:
    """The weight decay of each variable.

    Kernels and class centres have `weight_decay`, times `last_layer_decay` if they are in `last`. Biases, parameters of
    batch normalisation and PReLU slopes have none: a slope pulled to 0 turns PReLU into ReLU, and a gamma pulled to 0
    has no effect that the next layer cannot undo.

    Args:
        variables: those to decay.
        last: the variables after the global operator, and the class centres.
        stage: gives both factors.
    """
    last_ids = {id(v) for v in last}

    def decay(variable) -> float:
        if variable.name not in ("kernel", "centres"):
            return 0.0
        return stage.weight_decay * (stage.last_layer_decay if id(variable) in last_ids else 1.0)

    return [decay(v) for v in variables]


class _Kind(NamedTuple):
    """What is done with a variable: its weight decay, whether `backbone_rate` is its share, whether it is kept <= 1."""

    decay: float
    is_slow: bool
    is_at_most_1: bool


class Updater:
    """Clips, decays and applies the gradients of one stage.

    With SGD, Adam and Nadam, the weight decay is L2, added to the gradient. With AdamW and Lion it is decoupled
    (Loshchilov & Hutter, https://arxiv.org/abs/1711.05101). The backbone moves by `backbone_rate` times the optimizer's
    step.

    Args:
        optimizer: from `make_optimizer`, not built yet.
        stage: the stage of the recipe.
        variables: those that this stage trains.
        decays: the weight decay of each of `variables`, from `weight_decays`.
        backbone: the embedder's variables.
        local: those of `variables` that differ between the workers: the centres of each worker's classes.
        rows: updates the class centres of a sampled head, which are not among `variables`; None for other heads.
        workers: the processes that train together.
        held: all variables that the optimizer has a state for, in the order of a checkpoint; None for `variables`. The
            state of a frozen layer so outlasts the freeze.

    Attributes:
        groups: the groups of `variables`. Gradients come in their form, see `join`.
        is_local: for each group, whether it is of `local` variables. The gradients of all others are summed over the
            workers before the update.
        state: the variables of the optimizer, as a checkpoint has them.
    """

    def __init__(
        self, optimizer, stage: Stage, variables: Sequence, decays: Sequence[float], backbone: Sequence,
        local: Sequence = (), rows: RowOptimizer | None = None, workers: Workers = ONE_WORKER,
        held: Sequence | None = None,
    ):  # fmt: skip
        self.optimizer, self.stage, self.variables = optimizer, stage, list(variables)
        self.rows, self.workers = rows, workers
        self.is_decoupled = stage.optimizer_kind in DECOUPLED
        slow_ids = {id(v) for v in backbone} if stage.backbone_rate != 1.0 else set()
        kinds = [
            _Kind(decay, id(v) in slow_ids, isinstance(v.constraint, AtMostOne))
            for v, decay in zip(self.variables, decays, strict=True)
        ]
        odd = [v for v in self.variables if not is_by_value(v)]
        self.groups = group_variables(self.variables, kinds, [*local, *odd])
        local_ids = {id(v) for v in local} if workers.count > 1 else set()
        self.is_local = [id(group.vector) in local_ids for group in self.groups]
        trained_ids = {id(v) for v in self.variables}
        frozen = [v for v in held or () if id(v) not in trained_ids]
        groups = [*self.groups, *group_variables(frozen, first=len(self.groups))]
        optimizer.build([group.vector for group in groups])
        self.state = optimizer_variables(optimizer, groups, held or self.variables)

    def join(self, values: Sequence) -> list:
        """One tensor for each group from a tensor, or None for zeros, for each of `variables`."""
        by_id = {
            id(v): tf.zeros(v.shape, v.dtype) if value is None else tf.convert_to_tensor(value)
            for v, value in zip(self.variables, values, strict=True)
        }
        return [group.join([by_id[id(v)] for v in group.variables]) for group in self.groups]

    def read(self) -> list:
        """The values of the variables, one tensor for each group."""
        return [group.read() for group in self.groups]

    def assign(self, values: Sequence) -> None:
        """Sets the variables from one tensor for each group."""
        for group, value in zip(self.groups, values, strict=True):
            group.assign(value)

    @property
    def loss_scale(self):
        """The factor of the loss and of the gradients: above 1 under float16."""
        return self.optimizer.dynamic_scale.value if self._is_scaled else 1.0

    @property
    def _is_scaled(self) -> bool:
        return isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)

    def norm(self, gradients: Sequence):
        """The norm of all gradients together, with those of the classes of all workers.

        Args:
            gradients: one for each group, summed over the workers where it is not local; then, with `rows`, that of the
                sampled centres.
        """
        if self.workers.count == 1:
            return tf.linalg.global_norm(gradients)
        pairs = list(zip(gradients, [*self.is_local, *([True] * (self.rows is not None))], strict=True))
        shared = tf.linalg.global_norm([g for g, is_local in pairs if not is_local] or [0.0])
        local = tf.linalg.global_norm([g for g, is_local in pairs if is_local] or [0.0])
        return tf.sqrt(tf.square(shared) + self.workers.sum(tf.square(local)))

    def __call__(self, gradients: Sequence, sampled: SampledClasses | None = None) -> None:
        """Takes one step.

        Args:
            gradients: of the scaled loss, one for each group; then, with `rows`, that of the sampled centres.
            sampled: with `rows`, the classes of this step.
        """
        scale, norm, by_centres = self.loss_scale, None, None
        if self.workers.count > 1 or self.rows:
            norm = self.norm(gradients)
        if self.rows:
            *gradients, by_centres = gradients
        if self._is_scaled and norm is not None:  # after an overflow in the classes of one worker, all skip the step
            gradients = [g + 0.0 * norm for g in gradients]
        if self.stage.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self.stage.clip_norm * scale, use_norm=norm)
        if self.rows:
            if sampled is None:
                raise ValueError("an Updater with `rows` takes the sampled classes. Received: sampled=None")
            self._move_rows(self.rows, by_centres, sampled, scale, norm)
        self._move(gradients, scale)

    def _move(self, gradients: Sequence, scale) -> None:
        """Decays the weights, and takes the optimizer's step on the vectors of the groups."""
        rate = tf.cast(self.optimizer.learning_rate, "float32")
        before, grown = self.read(), []
        for group, value, gradient in zip(self.groups, before, gradients, strict=True):
            if not self.is_decoupled:
                gradient = group.map_runs(
                    lambda kind, g, w: g + kind.decay * scale * w if kind.decay else g, gradient, value
                )
            is_decayed = self.is_decoupled and any(kind.decay for kind, _ in group.runs)
            if is_decayed:
                value = group.map_runs(lambda kind, w: w * (1.0 - rate * kind.decay) if kind.decay else w, value)
            if is_decayed or group.is_copy:
                group.vector.value.assign(value, read_value=False)
            grown.append(gradient)
        self.optimizer.apply(grown, [group.vector for group in self.groups])

        def moved(kind: _Kind, new, old):
            new = AtMostOne()(new) if kind.is_at_most_1 else new
            return old + self.stage.backbone_rate * (new - old) if kind.is_slow else new

        for group, old in zip(self.groups, before, strict=True):
            if group.is_copy or any(kind.is_slow for kind, _ in group.runs):
                group.assign(group.map_runs(moved, group.vector.value.value(), old))

    def _move_rows(self, optimizer: RowOptimizer, gradient, sampled: SampledClasses, scale, norm) -> None:
        is_wanted = tf.math.is_finite(norm) if self._is_scaled else True
        most = self.stage.clip_norm * scale
        factor = (most / tf.maximum(norm, most) if self.stage.clip_norm else 1.0) / scale
        rate = tf.cast(self.optimizer.learning_rate, tf.float32)
        step = tf.cast(self.optimizer.iterations.value + 1, tf.float32)
        rows = rows_of(sampled.classes, optimizer.table.shape[0] // sampled.num_held)
        decay = self.stage.weight_decay * self.stage.last_layer_decay
        optimizer.apply(rows, gradient, rate, decay, step, factor, is_wanted)


class WeightAverage:
    """An exponential moving average of a model's variables, BN statistics included.

    After step t, `average = d * average + (1 - d) * value` with d = min(decay, (1 + t) / (10 + t)): the first values,
    which are far from trained, soon lose their weight.

    As a context manager it gives the model the averages as its weights, and restores the trained weights at the end.

    Args:
        model: the Keras model that is trained.
        decay: d after many steps, in [0, 1).
    """

    def __init__(self, model: keras.Model, decay: float):
        self.decay = decay
        self.model_variables = [v for v in model.variables if "float" in v.dtype]  # not the random state of dropout
        self._groups = group_variables(self.model_variables)
        names = {id(v): f"average_{i}" for i, v in enumerate(self.model_variables)}
        paths = [[names[id(v)] for v in group.variables] for group in self._groups]
        self._vectors = [
            keras.Variable(tf.identity(group.read()), trainable=False, name=of_group[0])
            for group, of_group in zip(self._groups, paths, strict=True)
        ]
        self.variables = in_order(self.model_variables, self._groups, self._vectors, paths)
        self._update = tf.function(self._step, autograph=False)

    def update(self, step: int) -> None:
        """Adds the model's weights to the average.

        Args:
            step: t, counted from 0 in this stage.
        """
        self._update(tf.constant(min(self.decay, (1 + step) / (10 + step)), tf.float32))

    def _step(self, decay):
        for average, group in zip(self._vectors, self._groups, strict=True):
            value = average.value.value()
            average.value.assign(value + (1.0 - decay) * (group.read() - value), read_value=False)

    def __enter__(self):
        self._trained = [np.array(v.numpy()) for v in self.model_variables]  # a copy: numpy() may be the memory itself
        for average, group in zip(self._vectors, self._groups, strict=True):
            group.assign(average.value)
        return self

    def __exit__(self, *exc):
        for variable, value in zip(self.model_variables, self._trained, strict=True):
            variable.assign(value)

"""What each stage trains with: its objective, its optimizer and its step, taken over from stage to stage.

Names TensorFlow.
"""

from collections.abc import Callable

import keras

from facelib.distributed.workers import ONE_WORKER, Workers
from facelib.errors import FaceError
from facelib.losses.distillation import Distiller
from facelib.losses.partial_fc import ClassSplit
from facelib.losses.registry import LOSSES
from facelib.training.optimizers import RowOptimizer, Updater, last_layers, make_optimizer, take_over
from facelib.training.recipe.schema import Recipe
from facelib.training.step import Objective, make_step
from facelib.training.weight_average import WeightAverage


class StageParts:
    """The parts of the stage that is trained; `begin` goes to the next.

    Args:
        embedder: Keras model, float raw RGB pixels [N, H, W, 3] -> float32 [N, D].
        make_head: `face_loss_k.make_head`.
        num_classes: of the data.   teacher_size: T, 0 without a teacher.   workers: that train together.
        batch_size: images of all workers a step.

    Attributes:
        centres_head: the margin head whose class centres are kept, of this stage or of one before; None before any.
    """

    def __init__(
        self, recipe: Recipe, embedder, make_head: Callable, num_classes: int, teacher_size: int,
        workers: Workers = ONE_WORKER, batch_size: int = 0,
    ):  # fmt: skip
        self.workers = workers
        workers.expect(batch_size)
        self.recipe, self.embedder, self.make_head = recipe, embedder, make_head
        self.num_classes, self.teacher_size = num_classes, teacher_size
        self._freeze(())
        self.backbone = list(embedder.trainable_variables)  # whatever a stage may freeze
        self.last = last_layers(embedder)
        self.centres_head = self.objective = self.optimizer = self.average = self.rows = None
        self.number = -1

    def begin(self, number: int) -> None:
        """Makes the parts of stage `number`; those of the stages before must have been made in turn."""
        stage, size = self.recipe.stage[number], self.embedder.output_shape[-1]
        self._freeze(stage.freeze_layers)
        head = self._head(stage)
        center = self._kept("center_loss", stage.center_loss, self._make_center_loss)
        has_teacher = self.teacher_size and stage.distill_weight
        distiller = Distiller(stage.distill, size, self.teacher_size) if has_teacher else None
        self._keep_projection(distiller)
        self.objective = Objective(stage, head, center, distiller, self.workers)
        self.optimizer = self._optimizer(number)
        self.rows = self._row_optimizer(number)
        self.average = WeightAverage(self.embedder, stage.ema) if stage.ema else None
        variables = self.parts_variables()
        if not stage.freeze_backbone:
            variables = [*self.embedder.trainable_variables, *variables]
        update = Updater(
            self.optimizer, stage, variables, [*self.last, *self.parts_variables()], self.embedder.variables,
            own=[head.centres] if self.has_centres() else [], rows=self.rows, workers=self.workers,
        )  # fmt: skip
        self.step = make_step(self.embedder, self.objective, update, stage, self.teacher_size, self.workers)
        self.number = number

    def parts_variables(self) -> list:
        """The trainable variables outside the embedder that a Keras optimizer moves; not a sampled head's centres."""
        parts = [part for part in self.objective.layers.values() if part is not self.objective.sampled_head]
        return [v for part in parts for v in part.trainable_variables]

    def variables(self) -> dict:
        """Everything a checkpoint must hold, by name."""
        parts = {"embedder": self.embedder, "head": self.centres_head, **self.objective.layers}
        if self.objective.head is not None and self.objective.head is not self.centres_head:
            parts["metric"] = self.objective.head
            parts["head"] = self.centres_head
        groups = {name: part.variables for name, part in parts.items() if part is not None}
        groups["optimizer"] = self.optimizer.variables
        groups["average"] = self.average.variables if self.average else []
        groups["rows"] = self.rows.variables if self.rows else []
        return {f"{group}/{i:04d}/{v.path}": v for group, values in groups.items() for i, v in enumerate(values)}

    def rows_of_classes(self, rank: int | None = None) -> tuple[int, int, int]:
        """(first, last + 1, all) rows of the class centres that a worker holds, by default this one."""
        head, own = self.centres_head, self.workers
        split = head.split if rank is None else ClassSplit(Workers(rank, own.count))
        first, last = split.bounds(self.num_classes)
        return tuple(number * head.sub_centres for number in (first, last, self.num_classes))

    def is_by_class(self, name: str, variable) -> bool:
        """Whether a variable of `variables()` has a row for each class centre that this worker holds."""
        if self.centres_head is None or name.startswith(("embedder/", "average/", "center_loss/", "distiller/")):
            return False
        is_state = name.startswith("rows/") or "centres" in name
        return is_state and variable.shape == self.centres_head.centres.shape

    def has_centres(self) -> bool:
        """Whether this stage trains class centres."""
        return self.objective.head is not None and self.objective.head is self.centres_head

    def _freeze(self, prefixes: tuple[str, ...]) -> None:
        for prefix in prefixes:
            if not any(layer.name.startswith(prefix) for layer in self.embedder.layers):
                names = ", ".join(layer.name for layer in self.embedder.layers if layer.weights)
                raise FaceError(
                    f"freeze_layers takes beginnings of layer names. Received: '{prefix}'. The layers: {names}."
                )
        for layer in self.embedder.layers:
            layer.trainable = not layer.name.startswith(prefixes) if prefixes else True

    def _head(self, stage):
        if stage.loss == "distill":
            return None
        head = self.make_head(stage.loss, self.num_classes, stage.options, stage.warmup_scale)
        if LOSSES[stage.loss].kind == "metric":
            return head
        head.split = ClassSplit(self.workers, stage.sample_rate, self.recipe.seed)
        head.build_on(self.centres_head) if self._fits(head) else head.build((None, self.embedder.output_shape[-1]))
        self.centres_head = head
        return head

    def _fits(self, head) -> bool:
        return self.centres_head is not None and head.sub_centres == self.centres_head.sub_centres

    def _kept(self, name: str, is_wanted: float, make: Callable):
        """The part of this name that the stage before had, or a new one; None when this stage wants none."""
        if not is_wanted:
            return None
        before = self.objective.layers if self.objective else {}
        return before.get(name) or make()

    def _make_center_loss(self):
        from facelib.losses.metric_losses import CenterLoss

        return CenterLoss(self.num_classes, self.embedder.output_shape[-1], name="center_loss")

    def _keep_projection(self, distiller) -> None:
        before = self.objective.distiller if self.objective else None
        has_both = all(part is not None and part.projection is not None for part in (before, distiller))
        if has_both:
            distiller.projection.assign(before.projection)

    def _optimizer(self, number: int) -> keras.optimizers.Optimizer:
        """Built over all that can be trained, so that what a frozen layer has accumulated outlasts the freeze."""
        stage = self.recipe.stage[number]
        optimizer = make_optimizer(stage)
        optimizer.build([*self.backbone, *self.parts_variables()])
        if self.optimizer is not None and not stage.optimizer:
            take_over(optimizer, self.optimizer)
        return optimizer

    def _row_optimizer(self, number: int) -> RowOptimizer | None:
        stage, head = self.recipe.stage[number], self.objective.sampled_head
        if head is None:
            return None
        rows = RowOptimizer(head.centres, stage)
        if self.rows is not None and not stage.optimizer:
            take_over(rows, self.rows)
        return rows

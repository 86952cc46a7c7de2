"""What a stage trains with: head, objective, optimizer and step. Class centres and state pass from stage to stage."""

from collections.abc import Callable

import keras

from facelib.distributed.workers import ONE_WORKER, Workers
from facelib.errors import FaceError
from facelib.losses.distillation import Distiller
from facelib.losses.metric_losses import CenterLoss
from facelib.losses.partial_fc import ClassSplit
from facelib.losses.protocols import Loss, MakeHead, MarginLoss, has_class_centres
from facelib.models.pointwise import use_products
from facelib.tensorflow_env import has_gpu, num_lanes
from facelib.training.lanes import WHOLE_BATCH, Lanes
from facelib.training.optimizers import RowOptimizer, copy_state, make_optimizer
from facelib.training.recipe.schema import Recipe, Stage
from facelib.training.step import Objective, make_step
from facelib.training.weight_update import Updater, WeightAverage, last_layers, weight_decays


class StageParts:
    """The parts of the current stage; `begin` makes those of the next.

    Args:
        recipe: the stages, and the seed of a sampled head.
        embedder: Keras model, float raw RGB pixels [N, H, W, 3] -> float32 [N, D].
        make_head: `face_loss_k.make_head`.
        num_classes: identities of the training set.
        teacher_size: T, the size of the teacher's vectors; 0 without a teacher.
        workers: the processes that train together.
        batch_size: images of all workers in a step.
        say: gets a line about `compile` of the recipe.

    Attributes:
        centres_head: the margin head with the class centres, of this stage or of an earlier one; None before the first.
        objective: the loss of the stage; `begin` sets it.
        optimizer: the Keras optimizer of the stage; `begin` sets it.
        update: the `Updater` of the stage, with the state of the optimizer; `begin` sets it.
        rows: the `RowOptimizer` of a sampled head, or None.
        average: the `WeightAverage` of the stage, or None.
        step: the compiled step, see `facelib.training.step.make_step`; `begin` sets it.
        number: the number of the stage, -1 before the first.
    """

    def __init__(
        self, recipe: Recipe, embedder, make_head: MakeHead, num_classes: int, teacher_size: int,
        workers: Workers = ONE_WORKER, batch_size: int = 0, say: Callable[[str], object] = print,
    ):  # fmt: skip
        self.workers, self.say, self.batch_size = workers, say, batch_size
        workers.expect(batch_size)
        self.recipe, self.embedder, self.make_head = recipe, embedder, make_head
        self.num_classes, self.teacher_size = num_classes, teacher_size
        use_products(embedder)
        self._freeze(())
        self.backbone = list(embedder.trainable_variables)  # all of it, also what a stage freezes
        self.last = last_layers(embedder)
        self.centres_head: MarginLoss | None = None
        self.average: WeightAverage | None = None
        self.rows: RowOptimizer | None = None
        self.number = -1
        # Set by `begin`.
        self.objective: Objective
        self.optimizer: keras.optimizers.Optimizer
        self.update: Updater
        self.step: Callable

    def begin(self, number: int) -> None:
        """Makes the parts of stage `number`, after those of all stages before it."""
        stage = self.recipe.stage[number]
        self._freeze(stage.freeze_layers)
        head = self._head(stage)
        self.objective = Objective(stage, head, self._center_loss(stage), self._distiller(stage), self.workers)
        before = self.update.state if self.number >= 0 and not stage.optimizer else []
        self.optimizer = make_optimizer(stage)
        self.rows = self._row_optimizer(stage)
        self.average = WeightAverage(self.embedder, stage.ema) if stage.ema else None
        variables = self.parts_variables()
        if not stage.freeze_backbone:
            variables = [*self.embedder.trainable_variables, *variables]
        decays = weight_decays(variables, [*self.last, *self.parts_variables()], stage)
        self.update = Updater(
            self.optimizer, stage, variables, decays, self.embedder.variables,
            local=[head.centres] if has_class_centres(head) else [], rows=self.rows, workers=self.workers,
            held=[*self.backbone, *self.parts_variables()],
        )  # fmt: skip
        copy_state(self.update.state, before)
        self.step = make_step(
            self.embedder,
            self.objective,
            self.update,
            stage,
            self.teacher_size,
            self.workers,
            self._compile(),
            self.say,
            self._lanes(stage),
        )
        self.number = number

    def _lanes(self, stage: Stage) -> Lanes:
        if has_gpu():
            return WHOLE_BATCH
        at_once = self.batch_size // self.workers.count // stage.micro_batches
        return Lanes(self.recipe.train.num_parts(at_once), num_lanes())

    def _compile(self) -> str:
        """`compile` of the recipe. A measured choice may be another one after a resume, so not with `deterministic`."""
        return "none" if self.recipe.deterministic and self.recipe.compile == "auto" else self.recipe.compile

    def parts_variables(self) -> list:
        """The variables outside the embedder that the Keras optimizer updates; not the centres of a sampled head."""
        parts = [part for part in self.objective.layers.values() if part is not self.objective.sampled_head]
        return [v for part in parts for v in part.trainable_variables]

    def variables(self) -> dict:
        """All variables that a checkpoint holds, by name."""
        parts = {"embedder": self.embedder, "head": self.centres_head, **self.objective.layers}
        if self.objective.head is not None and self.objective.head is not self.centres_head:
            parts["metric"] = self.objective.head
            parts["head"] = self.centres_head
        groups = {name: part.variables for name, part in parts.items() if part is not None}
        groups["optimizer"] = self.update.state
        groups["average"] = self.average.variables if self.average else []
        groups["rows"] = self.rows.variables if self.rows else []
        return {f"{group}/{i:04d}/{v.path}": v for group, values in groups.items() for i, v in enumerate(values)}

    def rows_of_classes(self, rank: int | None = None) -> tuple[int, int, int]:
        """(first, last + 1, total) row of the class centres of a worker.

        Args:
            rank: of the worker; None for this one.
        """
        head = self.centres_head
        if head is None:
            raise ValueError("no stage with class centres has begun")
        split = head.split if rank is None else ClassSplit(Workers(rank, self.workers.count))
        first, last = split.bounds(self.num_classes)
        return first * head.sub_centres, last * head.sub_centres, self.num_classes * head.sub_centres

    def is_by_class(self, name: str, variable) -> bool:
        """Whether a variable of `variables()` has one row for each class centre of this worker."""
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
                    f"freeze_layers must be a list of prefixes of layer names. No layer begins with '{prefix}'. "
                    f"The layers are: {names}."
                )
        for layer in self.embedder.layers:
            layer.trainable = not layer.name.startswith(prefixes) if prefixes else True

    def _head(self, stage: Stage) -> Loss | None:
        if stage.loss == "distill":
            return None
        head = self.make_head(stage.loss, self.num_classes, stage.options, stage.warmup_scale)
        if not has_class_centres(head):
            return head
        head.split = ClassSplit(self.workers, stage.sample_rate, self.recipe.seed)
        if self.centres_head is not None and head.sub_centres == self.centres_head.sub_centres:
            head.build_on(self.centres_head)
        else:
            head.build((None, self.embedder.output_shape[-1]))
        self.centres_head = head
        return head

    def _center_loss(self, stage: Stage) -> CenterLoss | None:
        """The center loss of the stage before, or a new one; None when this stage has none."""
        if not stage.center_loss:
            return None
        if self.number >= 0 and self.objective.center_loss is not None:
            return self.objective.center_loss
        return CenterLoss(self.num_classes, self.embedder.output_shape[-1], name="center_loss")

    def _distiller(self, stage: Stage) -> Distiller | None:
        """The loss towards the teacher, with the projection of the stage before; None when this stage has none."""
        if not (self.teacher_size and stage.distill_weight):
            return None
        distiller = Distiller(stage.distill, self.embedder.output_shape[-1], self.teacher_size)
        before = self.objective.distiller if self.number >= 0 else None
        if before is not None and before.projection is not None and distiller.projection is not None:
            distiller.projection.assign(before.projection)
        return distiller

    def _row_optimizer(self, stage: Stage) -> RowOptimizer | None:
        head = self.objective.sampled_head
        if head is None:
            return None
        rows = RowOptimizer(head.centres, stage)
        if self.rows is not None and not stage.optimizer:
            copy_state(rows.variables, self.rows.variables)
        return rows

"""The tables and keys of a recipe, with their defaults: `Recipe`, its `[[stage]]` tables (`Stage`) and the others."""

from dataclasses import dataclass, field, fields, replace
from functools import cached_property

from facelib.data.augment import AugmentConfig
from facelib.losses.registry import resolve_options
from facelib.model_input import IO_CHOICES, Io, usual_fit
from facelib.models.registry import BACKBONES, KERNEL_INITS, ModelConfig

# {optimizer that can update only the sampled class centres: number of its state tables of that size}.
ROW_OPTIMIZERS = {"sgd": 1, "adam": 2, "adamw": 2, "lion": 1}

DEFAULT_OPTIMIZER = "sgd"

CHOICES = {
    "backbone": BACKBONES,
    "activation": ("prelu", "relu", "relu6", "leaky_relu", "own"),
    "output_layer": ("GDC", "E", "GAP"),
    "stem": ("paper", "separable"),
    "padding": ("same", "symmetric"),
    "kernel_init": KERNEL_INITS,
    "shuffle": ("records", "blocks"),
    "compile": ("auto", "xla", "none"),
    "precision": ("float32", "mixed_float16", "mixed_bfloat16"),
    "optimizer": ("sgd", "adam", "adamw", "nadam", "lion"),
    "schedule": ("cosine", "step", "polynomial", "plateau", "constant"),
    "batch_norm": ("batch", "part"),
    "lanes": ("auto",),
    "distill": ("cosine", "l2", "kl", "relational"),
    **IO_CHOICES,
    "model.pixels": ("own", *IO_CHOICES["pixels"]),
    "data.fit": ("exact", *IO_CHOICES["fit"]),
}  # by key, or by table and key


@dataclass(frozen=True)
class Stage:
    """A `[[stage]]` table: what is minimised, for how long, and how.

    Attributes:
        loss: a name of docs/losses.md, or 'distill' for the teacher alone.
        epochs: passes over the data.
        margin: of the loss; None for its default.
        scale: of the loss; None for its default.
        loss_options: other options of the loss, by name.
        margin_warmup_steps: steps over which the margin rises from 0.
        warmup_scale: scale at the start of the margin warm-up; None for `scale` from the start.
        label_smoothing: share of the target that is spread over all classes.
        sample_rate: share of the classes in the softmax of a step, in (0, 1]; 1 is exact (losses/partial_fc.py).
        center_loss: weight of the center loss; 0 for none.
        norm_penalty: weight of the mean L1 norm of the embeddings before normalisation; 0 for none.
        distill: loss towards the teacher of the recipe: 'cosine', 'l2', 'kl' or 'relational'.
        distill_weight: its weight.
        optimizer: 'sgd', 'adam', 'adamw', 'nadam' or 'lion'; None continues with that of the stage before.
        momentum: of sgd.
        nesterov: of sgd.
        epsilon: of adam, adamw and nadam; None for 1e-7.
        learning_rate: peak of the learning rate.
        backbone_rate: learning rate of the embedder, as a share of that of the head.
        warmup_steps: steps over which the learning rate rises to its peak.
        warmup_epochs: the same in epochs, in place of warmup_steps.
        warmup_start: share of the peak from which it rises.
        warmup_power: 1 for a linear rise, 2 for a quadratic one.
        schedule: after the warm-up. 'cosine' and 'polynomial' fall to final_learning_rate at final_epoch and stay
            there; 'step' drops at the epochs of lr_drop_epochs; 'plateau' drops after `patience` epochs without a
            better score; 'constant' stays.
        final_learning_rate: of 'cosine' and 'polynomial'; 'plateau' does not drop below it.
        final_epoch: of 'cosine' and 'polynomial'; None for the end of the stage.
        power: of 'polynomial'.
        lr_drop_epochs: epochs of the stage at which 'step' drops.
        lr_drop: factor of a drop of 'step' and 'plateau'.
        patience: epochs, of 'plateau'.
        weight_decay: on kernels only.
        last_layer_decay: factor of weight_decay for the layers after the global operator and for the class centres.
        clip_norm: largest norm of all gradients together; 0 for no limit.
        ema: decay of a moving average of the weights, which is then measured and saved; 0 for none.
        sam: radius rho of sharpness-aware minimisation; 0 for none.
        images_per_identity: K of a PK sampler; 1 gives every image once an epoch.
        mixup: alpha of the Beta distribution of MixUp; 0 for none.
        micro_batches: parts of a batch that go through the network one after another.
        freeze_backbone: whether only the class centres are trained.
        freeze_layers: layers whose names begin with one of these are not trained.
        optimizer_kind: the optimizer in use; no key of a recipe.
    """

    loss: str = "arcface"
    epochs: int = 1
    margin: float | None = None
    scale: float | None = None
    loss_options: dict = field(default_factory=dict)
    margin_warmup_steps: int = 0
    warmup_scale: float | None = None
    label_smoothing: float = 0.0
    sample_rate: float = 1.0
    center_loss: float = 0.0
    norm_penalty: float = 0.0
    distill: str = "cosine"
    distill_weight: float = 1.0
    optimizer: str | None = None
    momentum: float = 0.9
    nesterov: bool = False
    epsilon: float | None = None
    learning_rate: float = 0.1
    backbone_rate: float = 1.0
    warmup_steps: int = 0
    warmup_epochs: float = 0.0
    warmup_start: float = 0.0
    warmup_power: float = 1.0
    schedule: str = "cosine"
    final_learning_rate: float = 0.0
    final_epoch: float | None = None
    power: float = 1.0
    lr_drop_epochs: tuple[float, ...] = ()
    lr_drop: float = 0.1
    patience: int = 1
    weight_decay: float = 5e-4
    last_layer_decay: float = 10.0
    clip_norm: float = 5.0
    ema: float = 0.0
    sam: float = 0.0
    images_per_identity: int = 1
    mixup: float = 0.0
    micro_batches: int = 1
    freeze_backbone: bool = False
    freeze_layers: tuple[str, ...] = ()
    optimizer_kind: str = field(init=False, compare=False, repr=False)  # no key of a recipe: see __post_init__

    def __post_init__(self):
        """`optimizer_kind`: the optimizer in use. A recipe puts that of the stage before where a stage names none."""
        object.__setattr__(self, "optimizer_kind", self.optimizer or DEFAULT_OPTIMIZER)

    @property
    def given_options(self) -> dict:
        """The options of the loss that the recipe gives, margin and scale included; no defaults."""
        named = {"margin": self.margin, "scale": self.scale}
        return {**{key: value for key, value in named.items() if value is not None}, **self.loss_options}

    @cached_property
    def options(self) -> dict:
        """All options of the loss, defaults included. Checked and computed once, when the recipe is checked.

        Raises:
            FaceError: an unknown loss or option, a value of the wrong type or out of range.
        """
        return resolve_options(self.loss, self.given_options) if self.loss != "distill" else {}


@dataclass(frozen=True)
class DataConfig:
    """The [data] table.

    Attributes:
        batch_size: images per step, of all workers together.
        shuffle: 'records' is exact; 'blocks' reads in sequence, for slow disks.
        flip: whether half of the images, at random, are mirrored left to right.
        fit: how images of another size get that of the net. 'exact' refuses them, 'crop' cuts the centre out, 'resize'
            scales them.
        augment: see docs/augmentation.md.
    """

    batch_size: int = 128
    shuffle: str = "records"
    flip: bool = True
    fit: str = "exact"
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True)
class TeacherIo:
    """The [teacher_io] table: the input of a teacher without a sidecar, with the values of the test scripts' flags.

    See `facelib.model_input.Io`.
    """

    input: str = "input_1"
    output: str = "embeddings"
    layout: str = "nhwc"
    colour: str = "rgb"
    pixels: str = "raw"


@dataclass(frozen=True)
class TrainConfig:
    """The [train] table: how a CPU computes a step.

    Attributes:
        batch_norm: in training, 'batch' normalises by the statistics of the whole batch (of a worker), 'part' by those
            of each part of it. Only parts can be computed side by side, which is faster. On a GPU it is always 'batch'.
        part: images of a part, about: a batch is cut into batch_size // part parts.
        lanes: parts that are computed at the same time, each on one thread; 'auto' for one on each core.
    """

    batch_norm: str = "batch"
    part: int = 16
    lanes: int | str = "auto"

    def num_parts(self, num_images: int) -> int:
        """The number of parts, at least 1, of so many images that go through the network at once."""
        return max(1, num_images // self.part) if self.batch_norm == "part" else 1

    def num_lanes(self, num_images: int, cores: int) -> int:
        """The number of lanes, at least 1.

        Args:
            num_images: that go through the network at once.
            cores: that this process may use.
        """
        wanted = cores if self.lanes == "auto" else int(self.lanes)
        return max(1, min(wanted, self.num_parts(num_images)))


@dataclass(frozen=True)
class Recipe:
    """A whole recipe.

    Attributes:
        name: of the default run directory, runs/<name>.
        seed: of weights, order and augmentation.
        precision: 'float32', 'mixed_float16' or 'mixed_bfloat16'.
        compile: whether XLA compiles the step: 'xla', 'none', or 'auto', which measures both on a GPU.
        deterministic: whether a run is bitwise repeatable, on a CPU.
        sync_batch_norm: whether batch normalisation uses the images of all workers, which is slower, or those of each.
        nan_retries: how often a training with a non-finite loss goes back to its last checkpoint, each time at half the
            learning rate.
        teacher: path of an artefact whose embeddings are learned; "" for none.
        teacher_io: of a teacher without a sidecar.
        model: the backbone.
        data: batches and augmentation.
        train: parts of a batch side by side.
        stage: the schedule, one stage after another.
    """

    name: str = "unnamed"
    seed: int = 0
    precision: str = "float32"
    compile: str = "auto"
    deterministic: bool = False
    sync_batch_norm: bool = False
    nan_retries: int = 3
    teacher: str = ""
    teacher_io: TeacherIo = field(default_factory=TeacherIo)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    stage: tuple[Stage, ...] = (Stage(),)

    def num_lanes(self, cores: int, num_workers: int = 1) -> int:
        """The number of lanes of a worker, at least 1; see `TrainConfig`.

        Args:
            cores: that this worker may use.
            num_workers: that share a batch.
        """
        fewest = max(stage.micro_batches for stage in self.stage)
        return self.train.num_lanes(self.data.batch_size // num_workers // fewest, cores)

    def face_io(self, size: tuple[int, int]) -> Io:
        """How the net of this recipe is fed when it is used; see `facelib.model_input.Io`.

        Faces of another size come to it as in the training; after a training on images of its own size, as `usual_fit`
        says.

        Args:
            size: (height, width) in pixels of its input.
        """
        fit = self.data.fit if self.data.fit != "exact" and size != Io.size else usual_fit(size)
        return Io(size=size, fit=fit)

    def __post_init__(self):
        """Sets each stage's `optimizer_kind`."""
        stages, kind = [], DEFAULT_OPTIMIZER
        for stage in self.stage:
            kind = stage.optimizer or kind
            if stage.optimizer_kind != kind:
                stage = replace(stage)
                object.__setattr__(stage, "optimizer_kind", kind)
            stages.append(stage)
        object.__setattr__(self, "stage", tuple(stages))


def recipe_keys(table) -> dict[str, str]:
    """The keys that a recipe may give in a table, each with the name of its attribute: 'from' is a word of Python.

    Args:
        table: one of the dataclasses above, or an instance of it.
    """
    return {each.metadata.get("key", each.name): each.name for each in fields(table) if each.init}

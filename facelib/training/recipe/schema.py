"""The tables and keys of a recipe, with their defaults: `Recipe`, `Stage` (a `[[stage]]` table) and the other tables."""

from dataclasses import dataclass, field, fields, replace
from functools import cached_property

from facelib.data.augment_config import AugmentConfig
from facelib.losses.registry import resolve_options
from facelib.model_input import IO_CHOICES
from facelib.models.registry import BACKBONES, ModelConfig

# Those that can move the drawn centres of a sampled head alone -> tables of state beside the centres.
ROW_OPTIMIZERS = {"sgd": 1, "adam": 2, "adamw": 2, "lion": 1}

DEFAULT_OPTIMIZER = "sgd"

CHOICES = {
    "backbone": BACKBONES,
    "activation": ("prelu", "relu", "relu6", "leaky_relu", "own"),
    "output_layer": ("GDC", "E", "GAP"),
    "stem": ("paper", "separable"),
    "padding": ("same", "symmetric"),
    "shuffle": ("records", "blocks"),
    "precision": ("float32", "mixed_float16", "mixed_bfloat16"),
    "optimizer": ("sgd", "adam", "adamw", "nadam", "lion"),
    "schedule": ("cosine", "step", "polynomial", "plateau", "constant"),
    "distill": ("cosine", "l2", "kl", "relational"),
    **IO_CHOICES,
}


@dataclass(frozen=True)
class Stage:
    """What is minimised, for how long, and how.

    The loss:
        loss: a name of docs/losses.md, or 'distill' for the teacher alone.   margin, scale, loss_options: of that loss;
        absent: its own defaults.   margin_warmup_steps: the margin rises from 0 over so many, and the scale from
        warmup_scale where that is given.   label_smoothing: share of the target spread over all classes.
        center_loss, norm_penalty: weights of the center loss, and of the mean L1 norm of the raw embeddings.
        distill, distill_weight: loss towards the recipe's teacher ('cosine', 'l2', 'kl', 'relational') and its weight.
        sample_rate: share of the classes that a step's softmax looks at, in (0, 1]; 1 is exact
        (facelib/losses/partial_fc.py).
    The optimizer:
        optimizer: absent = the one of the stage before goes on, with what it has accumulated.   momentum, nesterov: of
        sgd.   epsilon: of adam, adamw, nadam; absent = 1e-7.   learning_rate: peak, reached after warmup_steps; then
        'cosine' or 'polynomial' (of `power`) to final_learning_rate at the stage's end, 'step': times lr_drop at each
        of lr_drop_epochs, 'plateau': times lr_drop after `patience` epochs without a better score, or 'constant'.
        backbone_rate: the embedder's learning rate, as a share of the head's.   weight_decay: on kernels only, times
        last_layer_decay on the layers after the global operator and on the class centres.   clip_norm: of all
        gradients together; 0 for none.   ema: decay of a moving average of the weights, which is what is then measured
        and saved; 0 for none.   sam: radius rho of sharpness-aware minimisation; 0 for none.
    The data:
        epochs: passes.   images_per_identity: K of a PK sampler; 1 = every image once an epoch.   mixup: alpha of its
        Beta distribution; 0 for none.   micro_batches: a batch goes through the net in so many parts.
    What is trained:
        freeze_backbone: the class centres alone.   freeze_layers: beginnings of the names of layers that stay.
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
    schedule: str = "cosine"
    final_learning_rate: float = 0.0
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
    """batch_size: images a step.   shuffle: 'records' (exact) or 'blocks' (slow disks).   flip: random mirror.

    augment: docs/augmentation.md.
    """

    batch_size: int = 128
    shuffle: str = "records"
    flip: bool = True
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True)
class TeacherIo:
    """How a teacher without a sidecar is fed, as the flags of the test scripts say; see `facelib.model_input.Io`."""

    input: str = "input_1"
    output: str = "embeddings"
    layout: str = "nhwc"
    colour: str = "rgb"
    pixels: str = "raw"


@dataclass(frozen=True)
class Recipe:
    """A whole training.

    seed: of weights, order and augmentation.   deterministic: bitwise repeatable, on the CPU.
    sync_batch_norm: normalise by the statistics of all workers' images, not each by its own; slower.
    nan_retries: how often a diverged training goes back to its last checkpoint, each time at half the learning rate.
    teacher: any artefact whose embeddings are to be learned; "" for none.
    """

    name: str = "unnamed"
    seed: int = 0
    precision: str = "float32"
    deterministic: bool = False
    sync_batch_norm: bool = False
    nan_retries: int = 3
    teacher: str = ""
    teacher_io: TeacherIo = field(default_factory=TeacherIo)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    stage: tuple[Stage, ...] = (Stage(),)

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


def recipe_keys(table) -> list[str]:
    """The keys of a table as a recipe may give them. `table`: one of the dataclasses above, or an instance of it."""
    return [each.name for each in fields(table) if each.init]

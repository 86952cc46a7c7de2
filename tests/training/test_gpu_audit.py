"""The graphs of a training, read as a GPU would run them: kernels, values that the host waits for, order of messages.

No GPU is needed: TensorFlow's wheel registers its CUDA kernels everywhere (tests/helpers/gpu_audit.py). The graphs are
traced as if a GPU were there. docs/gpu.md says what this shows and what it does not.
"""

from dataclasses import replace

import keras
import pytest
import tensorflow as tf

from backbones import build_backbone
from facelib.distributed.workers import ONE_WORKER, Workers
from facelib.losses.registry import LOSSES, make_head
from facelib.models.fake_quant_net import fake_quantized
from facelib.models.layers import FusedBatchNorm
from facelib.models.registry import ModelConfig
from facelib.training.compiling import FasterStep
from facelib.training.recipe.rules import check_recipe
from facelib.training.recipe.schema import CHOICES, ROW_OPTIMIZERS, Recipe, Stage
from facelib.training.stage_setup import StageParts
from facelib.training.weight_update import WeightAverage
from tests.helpers.gpu_audit import audit, collectives, has_gpu_kernels
from tests.helpers.tiny_train import tiny_backbone

pytestmark = pytest.mark.skipif(not has_gpu_kernels(), reason="this TensorFlow has no CUDA kernels")

CLASSES, SIZE, BATCH = 50, 16, 8
PRECISIONS = CHOICES["precision"]
OPTIMIZERS = CHOICES["optimizer"]
SAMPLED = {"sample_rate": 0.3}
PLAIN = Stage()

# Values that the host waits for, by (output that makes the value, input that reads it), with the reason. Nothing else.
FETCHES = {
    ("All.output", "If.cond"): "float16: Keras skips a step whose gradients overflow; one flag a step",
    ("Equal.z", "If.cond"): "float16: Keras raises the loss scale after 2,000 good steps; one flag a step",
    ("Cast.y", "StatelessRandomGetKeyCounter.seed"): "dropout: Keras keeps the seed on the device; one for each layer",
}
# The same, of a fake-quantised net only: TensorFlow's kernel reads the range of each tensor on the host.
RANGES = {
    (f"{value}.z", f"FakeQuantWithMinMaxVars{which}.{bound}")
    for value, bound in (("Minimum", "min"), ("Maximum", "max"))
    for which in ("", "Gradient")
}
# Operations whose kernel waits until it knows the size of its output, with the reason. Nothing else.
SIZED = {
    "Where": "the faces whose class is in a block; the faces that a worker has; the classes of a sample",
    "Unique": "the classes of the faces, of a sampled head",
    "UniqueWithCounts": "faces of each class, of center loss",
}
# Operations with a device in the graph: none.
PINNED: dict = {}


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """As on a machine with one GPU; the policy is that of the process again afterwards."""
    policy = keras.mixed_precision.dtype_policy()
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind=None: ["GPU:0"])
    yield
    keras.mixed_precision.set_global_policy(policy)


def make_parts(stage=PLAIN, precision="float32", count=1, backbone=None, teacher_size=0, sync=False, dropout=0.0):
    """The parts of a training with one stage, as `Trainer` makes them."""
    keras.mixed_precision.set_global_policy(precision)
    workers = Workers(count - 1, count) if count > 1 else ONE_WORKER
    model = ModelConfig(embedding_size=SIZE, dropout=dropout)
    embedder = build_backbone(replace(model, backbone=backbone)) if backbone else tiny_backbone(model)
    for layer in embedder.layers:
        if isinstance(layer, FusedBatchNorm) and sync:
            layer.workers = workers
    recipe = Recipe(stage=(stage,), precision=precision, teacher="teacher.h5" if teacher_size else "")
    check_recipe(recipe, "test")
    parts = StageParts(recipe, embedder, make_head, CLASSES, teacher_size, workers, BATCH)
    parts.begin(0)
    return parts


def plain(step):
    """The step without XLA: where a GPU is, the first steps are taken both ways."""
    return step._steps[0] if isinstance(step, FasterStep) else step


def trace(*args, **options):
    """The traced step of `make_parts`."""
    return plain(make_parts(*args, **options).step).get_concrete_function()


def check(traced, fetches=frozenset(FETCHES)):
    """Every operation has a GPU kernel, and the host waits for nothing but what is listed."""
    found = audit(traced)
    assert found.nodes > 0
    assert not found.without_kernel
    assert not found.round_trips
    assert not found.pinned.keys() - PINNED
    assert not found.compiled  # by XLA; `compile` of a recipe compiles the whole step
    unknown = {values: nodes for values, nodes in found.fetched.items() if values not in fetches}
    assert not unknown
    assert not found.sized.keys() - SIZED
    return found


def check_order(traced):
    """All messages between workers go through NCCL, one after another."""
    nodes, loose = collectives(traced)
    assert nodes
    assert {node.attr["communication_hint"].s for node in nodes} == {b"nccl"}
    assert not loose


# ---------------------------------------------------------------------- a few in the fast suite


def test_a_step_in_float16_runs_on_a_gpu():
    found = check(trace(Stage(optimizer="adamw", label_smoothing=0.1), "mixed_float16"))

    assert {"Conv2D", "DepthwiseConv2dNative", "FusedBatchNormV3", "FusedBatchNormGradV3"} <= found.kinds
    assert sum(len(nodes) for nodes in found.fetched.values()) <= 2  # the flags of Keras's loss scale


@pytest.mark.slow
def test_a_step_of_two_workers_runs_on_gpus_and_sends_its_messages_in_one_order():
    traced = trace(Stage(mixup=0.2, **SAMPLED), count=2)

    check(traced)
    check_order(traced)


@pytest.mark.parametrize(
    "function, kind",
    [
        (lambda x: tf.pad(x, [[0, 1]]), "without_kernel"),
        (lambda x: tf.range(tf.reduce_sum(x)), "fetched"),
        (lambda x: tf.while_loop(lambda y: tf.reduce_sum(y) < 9, lambda y: [y * y], [x]), "fetched"),
        (lambda x: tf.py_function(lambda v: v, [x], tf.int64), "round_trips"),
        (lambda x: tf.strings.as_string(x), "round_trips"),
        (lambda x: tf.boolean_mask(x, x > 0), "sized"),
    ],
)
def test_the_audit_finds(function, kind):
    traced = tf.function(function, input_signature=[tf.TensorSpec([None], tf.int64)]).get_concrete_function()

    assert getattr(audit(traced), kind)


def test_the_audit_finds_a_device_in_a_function_that_is_called():
    @tf.function
    def inner(x):
        with tf.device("CPU:0"):
            return x * x

    traced = tf.function(lambda x: inner(x) + 1.0).get_concrete_function(tf.TensorSpec([2], tf.float32))

    assert [op for op, _ in audit(traced).pinned] == ["Mul"]


# ---------------------------------------------------------------------- all of it


def stage_of(loss, **options):
    pairs = {"images_per_identity": 2} if LOSSES[loss].kind == "metric" else {}
    return Stage(loss=loss, **pairs, **options)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_with_every_optimizer(loss, optimizer, precision):
    check(trace(stage_of(loss, optimizer=optimizer), precision))


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("optimizer", ROW_OPTIMIZERS)
@pytest.mark.parametrize("count", [1, 2])
def test_a_sampled_head_with_every_optimizer(optimizer, count, precision):
    traced = trace(Stage(optimizer=optimizer, **SAMPLED), precision, count)

    check(traced)
    if count > 1:
        check_order(traced)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_on_two_workers(loss):
    traced = trace(stage_of(loss, optimizer="sgd"), "mixed_float16", count=2)

    check(traced)
    check_order(traced)


TERMS = {
    "plain": {"clip_norm": 0.0, "nesterov": True, "weight_decay": 0.0},
    "sam": {"sam": 0.1},
    "micro-batches": {"micro_batches": 2},
    "micro-batches, sam, mixup": {"micro_batches": 2, "sam": 0.1, "mixup": 0.2},
    "micro-batches, sampled, mixup": {"micro_batches": 2, "mixup": 0.2, **SAMPLED},
    "center loss, norm penalty": {"center_loss": 0.1, "norm_penalty": 0.1},
    "sub-centres, filter": {"loss_options": {"sub_centres": 2, "interclass_filtering": 0.5}},
    "smoothing": {"label_smoothing": 0.1},
    "slow backbone": {"backbone_rate": 0.5},
    "frozen backbone": {"freeze_backbone": True},
    "frozen layers": {"freeze_layers": ("first", "second")},
    "warm-up": {"warmup_scale": 16.0, "margin_warmup_steps": 10},
}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", TERMS)
def test_every_term_of_a_stage(name, count, precision):
    """On two workers with the statistics of the whole batch."""
    traced = trace(Stage(**TERMS[name]), precision, count, sync=count > 1)

    check(traced)
    if count > 1:
        check_order(traced)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
@pytest.mark.parametrize("teacher_size", [SIZE, 2 * SIZE])
@pytest.mark.parametrize("kind", CHOICES["distill"])
def test_every_distillation(kind, teacher_size, precision):
    for loss in ("distill", "arcface"):
        check(trace(Stage(loss=loss, distill=kind), precision, teacher_size=teacher_size))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_dropout_fetches_its_seed_and_nothing_else(precision):
    found = check(trace(precision=precision, dropout=0.2))

    assert len(found.fetched["Cast.y", "StatelessRandomGetKeyCounter.seed"]) == 1


# One of each family; the others have the same operations, only more of them.
FAMILIES = ("mobilefacenet", "my_mobilenet", "mbf", "ghostfacenet_v1", "edgeface_xxs", "mixfacenet_xs", "iresnet18",
            "MobileNet", "MobileNetV2", "MobileNetV3Small", "ResNet50V2", "EfficientNetV2B0")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
@pytest.mark.parametrize("backbone", FAMILIES)
def test_every_family_of_backbones(backbone, precision):
    check(trace(precision=precision, backbone=backbone))


@pytest.mark.slow
def test_the_training_of_a_fake_quantised_net():
    parts = make_parts()
    quantised = fake_quantized(parts.embedder, "tiny")
    new = StageParts(Recipe(stage=(Stage(loss="distill"),)), quantised, make_head, CLASSES, SIZE)
    new.begin(0)

    check(plain(new.step).get_concrete_function(), RANGES)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_moving_average(precision):
    average = WeightAverage(make_parts(precision=precision).embedder, 0.99)

    check(average._update.get_concrete_function(tf.TensorSpec([], tf.float32)))


@pytest.mark.slow
def test_what_workers_tell_each_other_between_the_steps():
    traced = Workers(1, 2)._host_sum.get_concrete_function()

    check(traced)
    check_order(traced)

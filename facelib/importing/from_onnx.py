"""Reads ONNX: MobileFaceNets and InsightFace's arcface_torch networks, as PyTorch exports them.

Layers are matched in order with a backbone of ours, so the result trains on like one.
"""

from dataclasses import dataclass
from pathlib import Path

from facelib.errors import FaceError
from facelib.importing.job import Imported, Job
from facelib.model_input import Io
from facelib.models.onnx_import.reader import find_input, is_half, list_weight_files, load_onnx
from facelib.models.onnx_import.rewrites import flatten_slopes, is_paired, join_last_linear, pair_channels
from facelib.models.onnx_import.steps import Step, describe, list_steps
from facelib.models.registry import IRESNET_DEPTHS
from facelib.tensorflow_env import quiet_tensorflow

NUM_FACES = 2  # at once in a run of the original
HALF_DIFFERENCE = 0.02  # of a model that computes in float16, from the same in float32


def read(job: Job) -> Imported:
    """The backbone of ours that an ONNX model is, with its weights.

    Raises:
        FaceError: not ONNX, or a network that is none of ours.
    """
    imported = rebuild(load_onnx(job.path), job)
    imported.record["weight_files"] = list_weight_files(job.path)
    return imported


def rebuild(onnx_model, job: Job, is_file: bool = True) -> Imported:
    """The backbone of ours that an `onnx.ModelProto` is, with its weights. ONNX Runtime runs the original.

    Args:
        onnx_model: the net.
        job: what the user asked for.
        is_file: whether the file of the job is this model, and not one that it was made from.

    Raises:
        FaceError: a network that is none of ours.
    """
    _, size = find_input(onnx_model)
    steps = list_steps(onnx_model, job.path)
    join_last_linear(steps)
    net = recognise(steps, job.path)
    pixels = job.pixels or net.pixels
    num_steep = flatten_slopes(steps, job.path)
    if net.name == "mbf":
        pair_channels(steps)
    if job.colour == "bgr":  # the first convolution takes RGB from now on
        first, kernel = next((step, step.kernel) for step in steps if step.kernel is not None)
        first.kernel = kernel[:, ::-1]
    crops, statistics = job.load_faces(size)
    quiet_tensorflow()
    from facelib.models.onnx_import.weights import copy_weights, restore_statistics
    from facelib.runtimes.onnx import OnnxEmbedder

    model = job.build_ours(net.name, pixels, image_size=size, **net.options)
    folded = copy_weights(steps, model, job.path)
    if folded and crops is not None:
        restore_statistics(model, folded, crops)
    io = Io(layout="nchw", colour=job.colour or "rgb", pixels=pixels, size=size)
    content = None if is_file else onnx_model.SerializeToString()
    return Imported(
        model,
        pixels,
        what=f"{net.name}: {len(steps)} layers",
        table={"backbone": net.name, **net.options},
        original=lambda faces: OnnxEmbedder(job.path, io, batch_size=NUM_FACES, model=content).raw(faces),
        max_difference=HALF_DIFFERENCE if is_half(onnx_model) else 1e-4,
        lines=list(_describe(num_steep, len(folded), statistics)),
        record={
            "backbone": net.name, "layers": len(steps), "slopes_rewritten": num_steep,
            "normalisations_folded": len(folded), "statistics": statistics,
        },
    )  # fmt: skip


def _describe(num_steep: int, num_folded: int, statistics: dict | None):
    if num_steep:
        yield f"{num_steep} PReLU slopes above 1 were rewritten, without changing the function of the net"
    if num_folded:
        done = (
            f"statistics restored from {statistics['count']} crops" if statistics else "pass --faces to train further"
        )
        yield f"{num_folded} batch normalisations are folded in the ONNX model: {done}"


@dataclass
class Net:
    """A backbone that an ONNX model may be.

    Attributes:
        name: in `facelib.models.registry`.
        options: arguments of its builder.
        pixels: the usual pixel scaling of such models, a key of `PIXEL_SCALINGS`.
    """

    name: str
    options: dict
    pixels: str


def recognise(steps: list[Step], path: Path) -> Net:
    """The backbone that the steps may be. `copy_weights` checks whether they are."""
    kinds = {step.activation for step in steps} - {"linear"}
    if len(kinds) != 1:
        raise FaceError(
            f"A face model must have only one kind of activation. '{path}' has {', '.join(sorted(kinds)) or 'none'}: "
            "this is a different architecture."
        )
    options = {"embedding_size": steps[-1].channels, "activation": kinds.pop()}
    if steps[0].strides == (1, 1):
        return Net(_name_iresnet(steps, path), options, "pm1_exact")
    strided = [step for step in steps if step.strides[0] == 2]
    options["padding"] = "symmetric" if all(step.pads == (1, 1, 1, 1) for step in strided) else "same"
    if is_paired(steps):
        return Net("mbf", options, "pm1_exact")
    options |= {"stem": "separable" if is_separable(steps) else "paper", "width": steps[0].channels / 64}
    is_foamliu = is_separable(steps) and any(step.max_value == 6 for step in steps)
    return Net("mobilefacenet", options, "imagenet" if is_foamliu else "pm1")


def _name_iresnet(steps: list[Step], path: Path) -> str:
    found = sum(step.kernel is not None and step.kernel.shape[2:] == (3, 3) for step in steps)
    for depth, repeats in IRESNET_DEPTHS.items():
        if found == 1 + 2 * sum(repeats):  # the first one, and two in each block
            return f"iresnet{depth}"
    known = ", ".join(f"{1 + 2 * sum(repeats)} (iresnet{depth})" for depth, repeats in IRESNET_DEPTHS.items())
    raise FaceError(
        f"'{path}' begins with '{steps[0].name}', a {steps[0].describe()}, like an iresnet. But the model has {found} "
        f"3x3 convolutions, and an iresnet has {known}: this is a different architecture."
    )


def is_separable(steps: list[Step]) -> bool:
    """Whether the first depthwise convolution is followed by a 1x1 convolution that keeps the channel count."""
    return len(steps) > 2 and steps[2].describe() == describe(1, 1, 1, dense=(steps[0].channels,) * 2)

"""The scripts that are killed, their inputs, and what they may leave behind."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from facelib.alignment import align_folders
from facelib.alignment.detect import Face
from facelib.data.conversion.job import convert
from facelib.data.conversion.shards_done import convert_part
from facelib.data.synthetic.faces import synthetic_face
from facelib.data.synthetic.files import SyntheticSet, write_folders, write_pairs
from facelib.model_input import TEMPLATE_112, Io
from tests.chaos.children import run_as_main

RECIPE = """
name = "tiny"
deterministic = true
{teacher}
[model]
embedding_size = 16
dropout = 0.2
[data]
batch_size = 8
[[stage]]
epochs = 2
scale = 16.0
margin = 0.2
margin_warmup_steps = 4
warmup_steps = 2
"""
_RUN = subprocess.run
_TRAIN = ("tests/helpers/tiny_train.py",)
_FLAGS = ("--out", "run", "--log-every", "1", "--checkpoint-every", "2", "--threads", "1")


@dataclass(frozen=True)
class Writer:
    """A script that is killed.

    Attributes:
        words: its path in the project and its arguments. It runs in a folder beside `inputs`.
        copies: names in `inputs` that are copied into its folder, because it writes to them.
        keeps: hidden files that belong to its result.
        whole: folders that it makes wholly or not at all.
        set_up: called in its process before it starts.
        is_training: it resumes, so what it leaves need not be its result.
        needs_tensorflow: it imports TensorFlow.
    """

    words: tuple[str, ...]
    copies: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    set_up: Callable[[], None] | None = None
    is_training: bool = False
    needs_tensorflow: bool = True


class StandIn:
    """In place of the face detector: one face as large as the photo, none where the photo is dark."""

    def detect(self, photo):
        height, width = photo.shape[:2]
        landmarks = np.array(TEMPLATE_112) * (width / 112, height / 112)
        return [Face((0, 0, width, height), landmarks, 1.0)] if photo.mean() > 16 else []


def align_in_a_fork() -> None:
    """The process that aligns is forked, so that its events count, and has the stand-in."""
    align_folders.get_context = lambda _: multiprocessing.get_context("fork")
    align_folders.align_folders = partial(align_folders.align_folders, make_detector=StandIn)


def small_teacher_chunks() -> None:
    """The teacher's progress is saved after every eight images."""
    from facelib.training import teacher

    teacher.CHUNK_IMAGES, teacher._KEEP_EVERY = 4, 2


def fork_scripts() -> None:
    """Scripts that a script starts are forked too, so that their events count."""
    subprocess.run = _run_forked


def _run_forked(argv, **options):
    """In place of subprocess.run(capture_output=True), for Python scripts and optimize_pb.sh."""
    if not argv[0].endswith(("optimize_pb.sh", sys.executable)):
        return _RUN(argv, **options)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                os.environ |= options["env"]
                if argv[0] == sys.executable:
                    code = run_as_main(argv[1:])
                else:
                    code = run_as_main(argv, "facelib.export.optimize")
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(argv, code, out.read().decode(), err.read().decode())


_FACES, _DATA, _MODEL, _VALID = "../inputs/faces", "../inputs/data", "../inputs/run/embedder.h5", "../inputs/toy.bin"
WRITERS = {
    "train": Writer((*_TRAIN, "../inputs/tiny.toml", "--data", _DATA, "--valid", _VALID, *_FLAGS), is_training=True),
    "teacher": Writer(
        (*_TRAIN, "../inputs/taught.toml", "--data", "data", "--valid", _VALID, *_FLAGS),
        copies=("data",),
        set_up=small_teacher_chunks,
        is_training=True,
    ),
    "prepare_data": Writer(
        ("prepare_data.py", _FACES, "data", "--shards", "2", "--no-progress"), whole=("data",), needs_tensorflow=False
    ),
    "shard": Writer(
        ("prepare_data.py", _FACES, "data", "--shard", "1/2", "--shards", "4", "--no-progress"), needs_tensorflow=False
    ),
    "merge": Writer(
        ("prepare_data.py", "merge", "cut", "--no-progress"),
        copies=("cut.part-1-of-2", "cut.part-2-of-2"),
        whole=("cut",),
        needs_tensorflow=False,
    ),
    "export": Writer(
        ("prepare_data.py", "export", _DATA, "folders", "--no-progress"), whole=("folders",), needs_tensorflow=False
    ),
    "make_bin": Writer(("make_bin.py", _FACES, "toy.bin", "--num-pairs", "20"), needs_tensorflow=False),
    "align_faces": Writer(
        ("align_faces.py", "../inputs/photos", "crops", "--workers", "1", "--no-progress"),
        keeps=("crops/.align_faces.json",),
        set_up=align_in_a_fork,
        needs_tensorflow=False,
    ),
    "h5_2_pb": Writer(("h5_2_pb.py", _MODEL, "--out", "frozen.pb")),
    "pb_2_tflite": Writer(("pb_2_tflite.py", "../inputs/frozen.pb", "--mode", "float", "--out", "x.tflite")),
    "int8": Writer(
        ("pb_2_tflite.py", "../inputs/frozen.pb", "--mode", "int8", "--calibration", _DATA, "--out", "x.tflite")
    ),
    "export_all": Writer(
        ("export_all.py", "run", "--valid", _VALID, "--max-acc-drop", "100", "--max-vr-drop", "100"),
        copies=("run",),
        set_up=fork_scripts,
    ),
    "enroll": Writer(
        ("predict.py", "enroll", _FACES, "people.npy", "--model", "../inputs/patches.onnx", "--threads", "1"),
        needs_tensorflow=False,
    ),
    "clean_data": Writer(
        ("tools/clean_data.py", _DATA, "cleaned", "--model", "../inputs/patches.onnx", "--max-angle", "20"),
        whole=("cleaned",),
        needs_tensorflow=False,
    ),
}


def write_inputs(folder: Path, has_networks: bool) -> None:
    """Writes `faces`, `data`, `photos`, `toy.bin`, `patches.onnx` and recipes; and networks, which need TensorFlow."""
    from facelib.sidecar import write_sidecar
    from tests.helpers.patches_onnx import write_model

    folder.mkdir()
    write_folders(folder / "faces", SyntheticSet(20, 2))
    convert(folder / "faces", folder / "data", progress=False)
    write_pairs(folder / "toy.bin", SyntheticSet(20, 2, first_identity=1000), 20)
    for part in (1, 2):
        convert_part(folder / "faces", folder / "cut", part, 2, shards=4, progress=False)
    for identity in range(3):
        (folder / f"photos/{identity}").mkdir(parents=True)
        for photo in range(3):
            image = (
                synthetic_face(0, identity, photo)[:, :, ::-1]
                if photo or identity
                else np.zeros((112, 112, 3), np.uint8)
            )
            cv2.imwrite(str(folder / f"photos/{identity}/{photo}.jpg"), image)
    (folder / "tiny.toml").write_text(RECIPE.format(teacher=""), encoding="utf-8")
    (folder / "taught.toml").write_text(
        RECIPE.format(teacher='teacher = "../inputs/patches.onnx"').split("scale")[0]
        + 'loss = "distill"\ndistill = "relational"\n',
        encoding="utf-8",
    )
    write_sidecar(write_model(folder / "patches.onnx"), kind="onnx", made_from=None, io=Io(layout="nchw"))
    if has_networks:
        _write_networks(folder)


def _write_networks(folder: Path) -> None:
    import keras

    from facelib.export.freeze import freeze
    from facelib.models.registry import ModelConfig
    from facelib.runtimes.frozen_graph import save_graph
    from facelib.runtimes.keras_h5 import save_h5
    from facelib.sidecar import write_sidecar
    from tests.helpers.tiny_train import tiny_backbone

    keras.utils.set_random_seed(0)
    net, h5 = tiny_backbone(ModelConfig(embedding_size=16)), folder / "run/embedder.h5"
    h5.parent.mkdir()
    save_h5(net, h5)
    write_sidecar(h5, kind="h5", made_from=None, io=Io())
    save_graph(freeze(net), folder / "frozen.pb")
    write_sidecar(folder / "frozen.pb", kind="frozen_pb", made_from=h5, io=Io())

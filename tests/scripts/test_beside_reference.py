"""Test scripts with a reference: a model that is fed wrongly is refused on its first faces, with the likely cause."""

import shutil
import time

import numpy as np
import pytest

import evaluate_data
from facelib.data.synthetic.files import SyntheticSet, write_pairs
from facelib.data.verification.bins import load_bin
from facelib.embedder import RuntimeEmbedder
from facelib.errors import FaceError
from facelib.evaluation.beside_reference import BesideReference
from facelib.evaluation.embed_images import embed_images
from facelib.model_input import Io
from facelib.runtimes.onnx import OnnxEmbedder
from facelib.sidecar import write_sidecar
from facelib.wrong_input import MISTAKES
from tests.helpers.patches_onnx import write_model

ONNX_IO = Io(layout="nchw")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A verification set of 20 pairs of drawn faces."""
    path = tmp_path_factory.mktemp("faces") / "toy.bin"
    write_pairs(path, SyntheticSet(20, 4), 20)
    return path


@pytest.fixture
def room(faces, tmp_path):
    """toy.bin, net.onnx with the sidecar of an ONNX model, and chip.bin that was made from it."""
    shutil.copy(faces, tmp_path)
    write_model(tmp_path / "net.onnx")
    write_sidecar(tmp_path / "net.onnx", kind="onnx", made_from=None, io=ONNX_IO)
    (tmp_path / "chip.bin").write_bytes((tmp_path / "net.onnx").read_bytes())
    write_sidecar(tmp_path / "chip.bin", kind="chip", made_from=tmp_path / "net.onnx", io=ONNX_IO)
    return tmp_path


class Chip(OnnxEmbedder):
    """A chip that feeds its net with `change(pixels)`, float32 [N, H, W, 3]."""

    change = staticmethod(lambda pixels: pixels)
    noise = 0.0

    def run(self, pixels):
        fed = self.change(pixels.astype(np.float32).transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        output = super().run(np.ascontiguousarray(fed, np.float32))
        return output + self.noise * np.random.default_rng(0).normal(size=output.shape)

    def close(self):
        """As a simulator."""


def run(room, *words, change=Chip.change, noise=0.0):
    parser = evaluate_data.make_parser("A test.")
    evaluate_data.add_reference_flags(parser, 0.95)
    chip = type("TestedChip", (Chip,), {"change": staticmethod(change), "noise": noise})
    flags = [str(room / "chip.bin"), "--valid", str(room / "toy.bin"), "--pairs", "20", "--far", "0.2", *words]
    return evaluate_data.run_test_beside_reference(parser.parse_args(flags), chip, "chip")


def test_the_cosine_to_the_parent_is_printed(room, capsys):
    assert run(room) == 0

    assert "mean cosine to net.onnx on " in (printed := capsys.readouterr().out) and ": 1.0000" in printed


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name.replace(" ", "_"))
def test_a_mistake_in_feeding_is_named_and_nothing_is_written(mistake, room):
    with pytest.raises(
        FaceError, match=rf"'chip\.bin' must give the same embeddings as 'net\.onnx'\. .*{mistake.name}"
    ):
        run(room, change=mistake.apply)

    assert not (room / "chip.bin.report.json").exists()


def test_a_rough_model_is_tested_and_then_refused(room, capsys):
    with pytest.raises(
        FaceError, match=r"mean cosine >= 0\.95\. Received: 0\.\d+ for '.*chip\.bin'\. Convert the model again"
    ):
        run(room, noise=40.0)

    assert (room / "chip.bin.report.json").is_file() and "data set | AUC" in capsys.readouterr().out


def test_another_reference_is_named_by_a_flag(room, capsys):
    shutil.copy(room / "net.onnx", room / "other.onnx")
    shutil.copy(room / "net.onnx.json", room / "other.onnx.json")
    (room / "net.onnx").unlink()
    assert run(room) == 0
    assert "no cosine: the reference that the sidecar names" in capsys.readouterr().out

    assert run(room, "--reference", str(room / "other.onnx")) == 0

    assert "mean cosine to other.onnx" in capsys.readouterr().out


def test_the_time_of_the_reference_is_not_counted(faces, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    class Slow(RuntimeEmbedder):
        def __init__(self, seconds):
            super().__init__("slow", Io(), 64)
            self.seconds = seconds

        def run(self, pixels):
            clock[0] += self.seconds
            return pixels[:, ::28, ::28, 0] - 100.0

    images = load_bin(faces).images[:12]
    embedded = embed_images(BesideReference(Slow(1.0), lambda: Slow(10.0)), images, where="toy", threads=1)

    assert embedded.seconds == 1.0  # the first call, which warms up, is outside the clock

"""Fixtures that tests of several rooms share."""

import numpy as np
import pytest

from facelib.data.verification.bins import write_bin
from facelib.model_input import Io
from facelib.sidecar import write_sidecar
from tests.helpers.mean_colour import draw_face


@pytest.fixture(scope="module")
def shades(tmp_path_factory):
    """A folder with a model of `tests.helpers.mean_colour` and shades.bin: 60 pairs, one face in many of them."""
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("shades")
    colours, shared = random.integers(40, 200, (60, 3)), draw_face(random, [90, 60, 200])
    is_same = [k // 3 % 2 == 0 for k in range(60)]
    images = []
    for k, same in enumerate(is_same):
        first = shared if not same else draw_face(random, colours[k])
        images += [first, draw_face(random, colours[k])]
    write_bin(folder / "shades.bin", images, is_same)
    artefact = folder / "model.fake"
    artefact.write_bytes(b"weights")
    write_sidecar(artefact, kind="fake", made_from=None, io=Io())
    return folder


@pytest.fixture
def no_plots(monkeypatch):
    """Training writes no plots: they take longer than the steps of a small test."""
    from facelib.training import trainer

    monkeypatch.setattr(trainer, "write_training_plots", lambda path: None)

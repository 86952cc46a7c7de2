"""What the tests of om/ share: a small frozen graph, the scripts of om/, and PATH with and without Ascend's tools."""

import importlib.util
import os
from pathlib import Path

from facelib.export.freeze import freeze
from facelib.model_input import Io
from facelib.runtimes.frozen_graph import save_graph
from facelib.sidecar import write_sidecar

ROOT = Path(__file__).parents[2]
SIZE = 24  # of the embedding


def load_script(name):
    """A script of om/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "om" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def hide_tools(patch):
    """PATH as it is on a machine without CANN."""
    folders = [Path(folder) for folder in os.environ["PATH"].split(os.pathsep)]
    without = [folder for folder in folders if not (folder / "atc").exists() and not (folder / "msame").exists()]
    patch.setenv("PATH", os.pathsep.join(map(str, without)))


def put_on_path(patch, folder):
    patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def save_with_sidecar(graph, path, **io):
    save_graph(graph, path)
    write_sidecar(path, kind="optimized_pb", made_from=None, io=Io(embedding_size=SIZE, **io), licence="none")
    return path


def save_small_net(folder):
    """A graph of raw pixels to 24 values; Flatten asks for the batch, as in every net of ours. Returns its path."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(3)
    x = inputs = keras.Input((112, 112, 3), name="pixels")
    x = layers.Rescaling(1 / 128, -127.5 / 128)(x)
    x = layers.Conv2D(12, 9, strides=8, padding="same")(x)
    x = layers.ReLU(max_value=6)(x)
    model = keras.Model(inputs, layers.Dense(SIZE)(layers.Flatten()(x)))
    return save_with_sidecar(freeze(model), folder / "optimized.pb")

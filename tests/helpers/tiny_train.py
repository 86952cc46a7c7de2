"""train.py with a backbone of four small layers: TensorFlow needs half a minute to trace a step of MobileFaceNet.

python tests/helpers/tiny_train.py RECIPE ...        the flags of train.py; [model] gives embedding_size and dropout
"""

import sys
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import train
from facelib.cli import run_cli
from facelib.models.registry import ModelConfig


def tiny_backbone(model: ModelConfig):
    """An embedder with each kind of layer that a training treats in its own way: BN, PReLU, dropout."""
    import keras

    from facelib.models.blocks import Blocks, embedding_output
    from facelib.models.layers import PixelScale

    blocks = Blocks("prelu", "same")
    faces = keras.Input((112, 112, 3), name="input_1")
    x = blocks.conv(PixelScale(127.5, 128.0, name="scaled")(faces), 8, 3, 4, "first")
    x = blocks.depthwise(x, 2, "second")
    x = keras.layers.Dropout(model.dropout, name="dropout")(blocks.global_depthwise(x, "third"))
    x = blocks.conv(x, model.embedding_size, 1, 1, "fourth", linear=True)
    return keras.Model(faces, embedding_output(x), name="tiny")


if __name__ == "__main__":
    sys.modules["backbones"] = ModuleType("backbones")  # train.py imports it late, with TensorFlow
    sys.modules["backbones"].build_backbone = tiny_backbone
    run_cli(train.main)

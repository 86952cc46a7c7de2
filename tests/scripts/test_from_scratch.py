"""ArcFace at scale 64 and margin 0.5 starts from random weights, on every backbone.

The learning rate is 0.1 with SGD, and 0.001 with AdamW for nets with attention.

It is the case that sends users of older systems to a softmax stage first.
"""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest

from backbones import build_backbone
from dataset import TrainingData
from face_loss_k import make_head
from facelib.data.conversion.job import convert
from facelib.data.synthetic.files import SyntheticSet, write_folders
from facelib.models.registry import BACKBONES, EDGEFACES, IMPORTED, ModelConfig
from facelib.training.recipe.schema import DataConfig, Recipe, Stage
from facelib.training.trainer import Trainer

IDENTITIES, EPOCHS, BATCH = 12, 6, 16
STAGE = Stage(
    loss="arcface", epochs=EPOCHS, scale=64.0, margin=0.5, warmup_scale=16.0, margin_warmup_steps=20, optimizer="sgd",
    learning_rate=0.1, warmup_steps=10, schedule="constant",
)  # fmt: skip
ADAMW = replace(STAGE, optimizer="adamw", learning_rate=1e-3)  # nets with attention do not learn with SGD at 0.1
STAGES = dict.fromkeys(EDGEFACES, ADAMW)
WIDTHS = {"mobilefacenet": 0.5, "my_mobilenet": 0.5, "ghostfacenet_v1": 0.5, "MobileNet": 0.5}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    write_folders(folder / "faces", SyntheticSet(IDENTITIES, 8))
    convert(folder / "faces", folder / "data")
    return folder / "data"


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [name for name in BACKBONES if name != IMPORTED])  # that is a file
def test_arcface_starts_from_scratch(data, tmp_path, backbone):
    keras.utils.set_random_seed(0)
    model = ModelConfig(backbone=backbone, embedding_size=64, width=WIDTHS.get(backbone, 1.0))
    recipe = Recipe(
        name="scratch", nan_retries=0, model=model, data=DataConfig(BATCH), stage=(STAGES.get(backbone, STAGE),)
    )
    trainer = Trainer(
        build_backbone(model), TrainingData(data, BATCH), tmp_path / "run", make_head=make_head, recipe=recipe,
        log_every=1, checkpoint_every=10_000,
    )  # fmt: skip

    assert trainer.fit()

    trainer.run.close()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "step"]
    accuracies = [line["accuracy"] for line in lines if line["kind"] == "epoch"]
    assert np.isfinite(losses).all()
    assert len(losses) == EPOCHS * IDENTITIES * 8 // BATCH
    assert accuracies[-1] > 100 * 2 / IDENTITIES  # it learns: by chance, 1 / IDENTITIES
    assert max(losses[-6:]) < 64  # with the whole margin; a run that diverges stays at s (1 + m) and above

"""The list of losses, the layers that it names, and the file where users look for them."""

import keras
import pytest

import face_loss_k
from facelib.errors import FaceError
from facelib.losses import fixed_margins
from facelib.losses.margin_head import MarginHead
from facelib.losses.registry import LOSSES, make_head


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_of_the_list_is_a_layer(loss):
    head = make_head(loss, 7)

    assert isinstance(head, keras.layers.Layer) and head.name == "head"
    assert type(head).__name__ == LOSSES[loss].layer.partition(".")[2]
    assert isinstance(head, MarginHead) == head.has_class_centres == (LOSSES[loss].kind == "margin")


@pytest.mark.parametrize("loss", [loss for loss, spec in LOSSES.items() if spec.kind == "margin"])
def test_the_options_of_the_list_are_arguments_of_the_layer(loss):
    config = make_head(loss, 7).get_config()

    for option, default in LOSSES[loss].options.items():
        assert config[option] == default


def test_face_loss_k_has_the_layers_and_make_head():
    assert face_loss_k.ArcFace is fixed_margins.ArcFace
    assert face_loss_k.make_head is make_head


def test_options_and_the_warm_up_reach_the_layer():
    head = make_head("arcface", 7, {"margin": 0.3}, warmup_scale=8.0)

    assert (head.num_classes, head.margin, head.scale, head.warmup_scale) == (7, 0.3, 64.0, 8.0)
    assert make_head("batch_hard_triplet", 7, {"margin": 0.2}).margin == 0.2


def test_an_unknown_option_is_named():
    with pytest.raises(FaceError, match=r"loss 'softmax' has only the options none\. Received: scale = 3\.0"):
        make_head("softmax", 7, {"scale": 3.0})


@pytest.mark.parametrize(
    "loss, options, smoothing, expected",
    [
        ("arcface", {}, 0.0, True),
        ("arcface", {}, 0.1, False),
        ("arcface", {"sub_centres": 2}, 0.0, False),
        ("arcface", {"interclass_filtering": 0.5}, 0.0, False),
        ("magface", {}, 0.0, True),
        ("curricularface", {}, 0.0, False),
        ("softmax", {}, 0.0, False),
    ],
)
def test_a_softmax_that_needs_all_logits_is_not_computed_by_blocks(loss, options, smoothing, expected):
    assert make_head(loss, 7, options).runs_by_blocks(smoothing) == expected

"""Augmentation: pure in its key, each operation against its own definition, chances as asked for."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facelib.data.augment import MASK_OUTLINE, PRESETS, AugmentConfig, is_flipped, make_augment, random_flip
from facelib.data.rand_augment import OPERATIONS, rand_augment
from facelib.data.sampling import Draws
from facelib.data.synthetic.faces import synthetic_face
from facelib.errors import FaceError
from facelib.model_input import TEMPLATE_112
from facelib.training.recipe.toml import load_recipe

FACE = np.ascontiguousarray(synthetic_face(3, 0, 0))
KEYS = np.random.default_rng(0).integers(0, 2**64, 400, np.uint64).tolist()


def alone(**options):
    return make_augment(AugmentConfig(**options), flip=False)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "none"])
def test_the_same_key_gives_the_same_image_and_the_given_one_is_not_changed(preset):
    augment, before = make_augment(AugmentConfig(preset=preset), True), FACE.copy()

    for key in KEYS[:30]:
        one, two = augment(FACE, key), augment(FACE, key)
        np.testing.assert_array_equal(one, two)
        assert (one.shape, one.dtype) == (FACE.shape, np.uint8)
    np.testing.assert_array_equal(FACE, before)
    assert len({augment(FACE, key).tobytes() for key in KEYS[:30]}) == 30


def test_nothing_is_nothing():
    assert make_augment(AugmentConfig(), False) is None
    flip = make_augment(AugmentConfig(), True)
    for key in KEYS[:20]:
        np.testing.assert_array_equal(flip(FACE, key), random_flip(FACE, key))


def test_the_mirroring_is_the_same_whatever_else_is_done():
    augment = make_augment(AugmentConfig(color=0.01), True)
    for key in KEYS[:20]:
        mirrored, plain = FACE[:, ::-1].astype(int), FACE.astype(int)
        is_mirrored = np.abs(augment(FACE, key) - mirrored).mean() < np.abs(augment(FACE, key) - plain).mean()
        assert is_mirrored == is_flipped(key) == bool(key >> 63)


@pytest.mark.parametrize("name", ["gray", "downsample", "blur", "jpeg", "cutout", "mask"])
@pytest.mark.parametrize("chance", [0.1, 0.7])
def test_a_chance_is_a_chance(name, chance):
    augment = alone(**{name: chance})
    changed = np.mean([not np.array_equal(augment(FACE, key), FACE) for key in KEYS])
    assert abs(changed - chance) < 4 * (chance * (1 - chance) / len(KEYS)) ** 0.5


def test_a_preset_is_a_start_that_keys_change():
    config = AugmentConfig(preset="face_safe", jpeg=0.0, mask=0.5).resolved()
    assert (config.jpeg, config.mask, config.blur) == (0.0, 0.5, PRESETS["face_safe"]["blur"])
    assert AugmentConfig().resolved().crop == 0


# ------------------------------------------------------------------------------------------------ operations


def test_gray_is_the_luma_of_bt_601():
    out = alone(gray=1.0)(FACE, KEYS[0]).astype(float)
    luma = FACE.astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(out - luma[..., None]).max() <= 1


def test_jpeg_is_what_a_coder_of_some_quality_gives():
    out = alone(jpeg=1.0)(FACE, KEYS[1])
    coded = [
        cv2.imdecode(cv2.imencode(".jpg", FACE[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, q])[1], cv2.IMREAD_COLOR)[
            ..., ::-1
        ]
        for q in range(30, 91)
    ]
    assert any(np.array_equal(out, image) for image in coded)


def test_color_is_one_line_in_brightness_and_keeps_gray_gray():
    gray = np.repeat(np.arange(40, 200, dtype=np.uint8)[None, :112, None], 112, 0).repeat(3, 2)
    for key in KEYS[:10]:
        out = alone(color=0.15)(gray, key).astype(float)
        assert np.abs(out - out[..., :1]).max() <= 1  # no colour comes in
        steps = np.diff(out[0, :, 0])
        assert steps.min() >= 0 and steps.max() <= 2
        assert 0.7 < out.mean() / gray.mean() < 1.35


def test_crop_moves_and_resizes_within_its_share():
    dots = np.zeros((112, 112, 3), np.uint8)
    dots[28:30, 28:30] = dots[82:84, 82:84] = 255
    for key in KEYS[:30]:
        out = alone(crop=0.1)(dots, key)[..., 0].astype(float)
        places = np.argwhere(out > out.max() / 2)
        first, last = places[places.sum(1) < 112].mean(0), places[places.sum(1) >= 112].mean(0)
        zoom = (last - first) / 54
        assert np.all(np.abs(zoom - 1) <= 0.1 + 0.03)
        centre = (first + last) / 2 - 55.5
        assert np.all(np.abs(centre) <= 0.1 * 112 + 1)


def test_a_mask_covers_the_mouth_and_leaves_the_eyes():
    left_eye, right_eye, _, left_mouth, right_mouth = (np.round(p).astype(int) for p in TEMPLATE_112)
    for key in KEYS[:30]:
        changed = (alone(mask=1.0)(np.full((112, 112, 3), 77, np.uint8), key) != 77).any(2)
        for x, y in (left_mouth, right_mouth):
            assert changed[y, x]
        for x, y in (left_eye, right_eye):
            assert not changed[y - 6 : y + 7, x - 8 : x + 9].any()
    assert MASK_OUTLINE[:, 1].min() > TEMPLATE_112[0][1] + 8


def test_cutout_is_one_gray_square():
    for key in KEYS[:30]:
        changed = (alone(cutout=1.0)(np.zeros((112, 112, 3), np.uint8), key) == 128).all(2)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert len(rows) == len(columns) == np.ptp(rows) + 1
        assert changed.sum() == len(rows) ** 2
        assert 28 <= len(rows) <= 56


@pytest.mark.parametrize("name", ["downsample", "blur"])
def test_a_bad_camera_takes_detail_and_keeps_the_mean(name):
    noise = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    out = alone(**{name: 1.0})(noise, KEYS[2]).astype(float)
    assert out.std() < 0.8 * noise.std()
    assert out.mean() == pytest.approx(noise.mean(), abs=2)


@given(st.sampled_from(OPERATIONS), st.floats(0, 1), st.sampled_from([-1, 1]))
@settings(max_examples=60, deadline=None)
def test_every_operation_of_rand_augment_keeps_shape_and_type(operation, strength, sign):
    before = FACE.copy()
    out = operation(FACE, strength, sign)
    assert (out.shape, out.dtype) == (FACE.shape, np.uint8)
    np.testing.assert_array_equal(FACE, before)


def test_rand_augment_without_strength_or_operations_keeps_the_geometry():
    np.testing.assert_array_equal(rand_augment(FACE, Draws(1), 0, 30), FACE)
    for operation in OPERATIONS:
        if operation.__name__ in ("_rotate", "_shear_x", "_shear_y", "_move_x", "_move_y", "_brightness", "_contrast"):
            assert np.abs(operation(FACE, 0.0, 1).astype(int) - FACE).max() <= 1, operation.__name__


def test_draws_are_even():
    values = np.array([Draws(key).uniform() for key in KEYS])
    assert abs(values.mean() - 0.5) < 4 * (1 / 12 / len(KEYS)) ** 0.5
    assert {Draws(key).integer(2, 4) for key in KEYS} == {2, 3, 4}


@pytest.mark.parametrize(
    "text, message",
    [
        ("preset = 'weird'", "data.augment.preset must be one of none, face_safe, strong. Received: 'weird'"),
        ("gray = 1.5", "data.augment.gray must be a probability, from 0 to 1. Received: 1.5"),
        ("crop = 0.9", "data.augment.crop must be from 0 to 0.5. Received: 0.9"),
        ("rand_augment = 9", "data.augment.rand_augment must be from 0 to 8"),
        ("rand_magnitude = 31", "rand_magnitude must be from 0 to 30"),
        ("cutot = 0.1", "unknown key 'data.augment.cutot'. Did you mean 'data.augment.cutout'"),
    ],
)
def test_a_mistake_is_named(tmp_path, text, message):
    (tmp_path / "r.toml").write_text(f"[data.augment]\n{text}\n")
    with pytest.raises(FaceError, match=message):
        load_recipe(tmp_path / "r.toml")

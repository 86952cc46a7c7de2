"""RandAugment's operations, against their definitions in the paper's reference (Pillow's ImageOps) or in NumPy."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from facelib.data import rand_augment as module
from facelib.data.rand_augment import OPERATIONS, rand_augment
from facelib.data.sampling import Draws

IMAGE = np.random.default_rng(0).integers(40, 200, (24, 20, 3), np.uint8)


@pytest.mark.parametrize("bits", [0, 15, 30])
def test_posterize_and_solarize_are_those_of_pillow(bits):
    strength = bits / 30
    picture = Image.fromarray(IMAGE)

    posterized = np.asarray(ImageOps.posterize(picture, 8 - round(4 * strength)))
    np.testing.assert_array_equal(module._posterize(IMAGE, strength, 1), posterized)
    solarized = np.asarray(ImageOps.solarize(picture, 256 * (1 - strength)))
    np.testing.assert_array_equal(module._solarize(IMAGE, strength, 1), solarized)


def test_autocontrast_stretches_each_channel_to_the_whole_range():
    stretched = module._autocontrast(IMAGE, 1, 1)

    assert (stretched.min((0, 1)) == 0).all() and (stretched.max((0, 1)) == 255).all()
    np.testing.assert_allclose(stretched, np.asarray(ImageOps.autocontrast(Image.fromarray(IMAGE))), atol=1)


def test_a_shift_is_a_third_of_the_side_at_most_and_shows_grey_behind_it():
    moved = module._move_x(IMAGE, 1, 1)  # 6 of 20 pixels to the right

    np.testing.assert_array_equal(moved[:, 6:], IMAGE[:, :-6])
    assert (moved[:, :6] == 128).all()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_keeps_shape_and_type_and_the_image_given(operation):
    before = IMAGE.copy()
    for strength in (0, 0.5, 1):
        for sign in (1, -1):
            changed = operation(IMAGE, strength, sign)
            assert changed.shape == IMAGE.shape and changed.dtype == np.uint8
    np.testing.assert_array_equal(IMAGE, before)


def test_the_result_follows_from_the_key_alone():
    results = [rand_augment(IMAGE, Draws(key), 2, 20) for key in (1, 1, 2, 3, 4, 5)]

    np.testing.assert_array_equal(results[0], results[1])
    assert len({result.tobytes() for result in results}) > 3

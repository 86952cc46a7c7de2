"""Every place that decodes pictures sees the same pixels, upright as EXIF says: all 8 tags, JPEG and PNG."""

import cv2
import numpy as np
import pytest

from dataset import TrainingData
from facelib.alignment.align import whole_crop
from facelib.alignment.align_folders import _align_file
from facelib.alignment.photos import FaceCutter, decode_photo
from facelib.data.conversion.job import convert
from facelib.data.readers.calibration_crops import load_crops
from facelib.data.readers.open_records import open_records
from facelib.data.verification.bins import decode_images, load_bin, write_bin
from facelib.evaluation.verification_sets import find_sets
from facelib.image_decoding import decode_or_blank
from facelib.training.teacher import _faces
from tests.helpers.exif import STORED, png_with_exif, with_exif


def upright(k):
    """Image number k, without any symmetry: uint8 [112, 112, 3], RGB."""
    y, x = np.mgrid[:112, :112].astype(np.float32)
    return np.stack([2 * x, 2 * y, np.full_like(x, 12 * k)], axis=2).astype(np.uint8)


def encoded(k, suffix, orientation, order):
    stored = np.ascontiguousarray(STORED[orientation](upright(k))[..., ::-1])
    data = cv2.imencode(suffix, stored, [cv2.IMWRITE_JPEG_QUALITY, 99] if suffix == ".jpg" else [])[1].tobytes()
    return (with_exif if suffix == ".jpg" else png_with_exif)(data, orientation, order)


KINDS = [(suffix, orientation, order) for suffix in (".jpg", ".png") for orientation in STORED for order in "<>"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Two identities, 16 pictures each, one of each kind, in the order of KINDS."""
    folder = tmp_path_factory.mktemp("exif") / "faces"
    for k, kind in enumerate(KINDS):
        (folder / "ab"[k // 16]).mkdir(parents=True, exist_ok=True)
        (folder / "ab"[k // 16] / f"{k:02d}{kind[0]}").write_bytes(encoded(k % 20, *kind))
    return folder


@pytest.fixture(scope="module")
def files(faces):
    return sorted(faces.rglob("*.*g"))


def difference(pixels, k):
    """The mean grey-level difference to the upright picture."""
    return np.abs(np.asarray(pixels, int) - upright(k % 20)).mean()


@pytest.mark.parametrize("workers", [1, 3])
def test_training_and_the_teacher_see_pictures_upright(faces, files, tmp_path, workers):
    convert(faces, tmp_path / "data", progress=False, workers=workers)
    records = open_records(tmp_path / "data")
    number = {file.read_bytes(): k for k, file in enumerate(files)}
    batch = next(TrainingData(records, len(KINDS), augment=None).batches())

    assert sorted(batch.record_idx.tolist()) == list(range(len(KINDS)))
    for pixels, i in zip(batch.images, batch.record_idx.tolist(), strict=True):
        k = number[records.read(i)[0]]
        assert difference(pixels, k) < 1, KINDS[k]
        np.testing.assert_array_equal(_faces(records, range(i, i + 1))[0], pixels)
        np.testing.assert_array_equal(decode_images([records.read(i)[0]])[0], pixels)


@pytest.mark.parametrize("letterbox", [False, True])
def test_evaluation_of_folders_and_of_a_bin_sees_pictures_upright(faces, files, tmp_path, letterbox):
    (read,) = find_sets(faces, letterbox=letterbox)
    pixels = decode_images(read().images)
    write_bin(tmp_path / "set.bin", [file.read_bytes() for file in files], [True] * 16)

    assert max(difference(pixels[k], k) for k in range(len(KINDS))) < 1
    np.testing.assert_array_equal(decode_images(load_bin(tmp_path / "set.bin").images), pixels)


def test_photos_and_their_crops_calibration_and_contact_sheets_are_upright(faces, files, tmp_path, monkeypatch):
    monkeypatch.setattr("facelib.alignment.align_folders.cut_faces", lambda photo, *_: ([whole_crop(photo)], 1))
    crops = load_crops(faces, len(KINDS), seed=0)[0]
    for k, file in enumerate(files):
        pixels = decode_images([file.read_bytes()])[0]
        np.testing.assert_array_equal(decode_photo(file.read_bytes(), "x"), pixels)
        np.testing.assert_array_equal(FaceCutter()(file.read_bytes(), "x"), pixels)
        np.testing.assert_array_equal(decode_or_blank(file.read_bytes()), pixels)
        np.testing.assert_array_equal(crops[k], pixels)
        name = str(file.relative_to(faces))
        assert _align_file(faces, tmp_path, "central", 0.0, lambda: None, name, f"{k}.jpg") == (None, 1)
        written = (tmp_path / f"{k}.jpg").read_bytes()
        assert b"Exif" not in written and difference(decode_images([written])[0], k) < 2

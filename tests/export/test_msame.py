"""Reading what msame leaves: its file names, types, formats and log, as its source and logs of others have them."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facelib.data.verification.bins import write_bin
from facelib.errors import FaceError
from facelib.export.om.msame import find_results, read_embeddings, read_timing
from tests.helpers.ascend_road import load_script


def write_results(folder, vectors, dtype=np.float32, suffix=".bin", ending="_output_0", first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i, vector in enumerate(vectors.astype(dtype), first):
        path = folder / f"{i}{ending}{suffix}"
        if suffix == ".bin":
            vector.tofile(path)
        else:
            path.write_text(
                "".join(f"{value:g} " + "\n" * (k % 100 == 0) for k, value in enumerate(vector.tolist(), 1))
            )
    return folder


@pytest.fixture
def vectors():
    return np.random.default_rng(0).normal(size=(12, 128)).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 25), st.integers(2, 130), st.sampled_from([np.float16, np.float32, np.float64]),
       st.sampled_from([".bin", ".txt"]))  # fmt: skip
def test_every_type_and_format_comes_back(tmp_path_factory, num_faces, size, dtype, suffix):
    folder = tmp_path_factory.mktemp("out")
    rows = np.random.default_rng(size).normal(size=(num_faces, size))
    write_results(folder, rows, dtype, suffix)

    plain, flipped = read_embeddings(folder, num_faces, size if suffix == ".bin" else 0)

    assert flipped is None and plain.dtype == np.float32
    expected = rows.astype(dtype).astype(np.float64)
    np.testing.assert_allclose(plain, expected, rtol=1e-6 if suffix == ".bin" else 1e-5)


def test_mirrored_faces_are_kept_apart(tmp_path, vectors):
    write_results(tmp_path, vectors, np.float16)
    write_results(tmp_path, -vectors, np.float16, ending="_flip_output_0")

    plain, flipped = read_embeddings(tmp_path, 12, 128)

    np.testing.assert_array_equal(plain, -flipped)
    np.testing.assert_array_equal(plain, vectors.astype(np.float16).astype(np.float32))


def test_text_of_float16_bits_is_understood(tmp_path):
    """An older msame streams aclFloat16, which is uint16_t: 15360 is 1, 49152 is -2, 14336 is 0.5."""
    (tmp_path / "0_output_0.txt").write_text("15360 49152 14336 ")
    (tmp_path / "1_output_0.txt").write_text("1 -2 0.5 ")

    plain, _ = read_embeddings(tmp_path, 2)

    np.testing.assert_array_equal(plain, [[1, -2, 0.5]] * 2)


def test_missing_results_are_named(tmp_path, vectors):
    write_results(tmp_path, vectors)
    for i in (3, 11):
        (tmp_path / f"{i}_output_0.bin").unlink()
    with pytest.raises(FaceError, match=r"2 of 12 results are missing: 3_output_\*, 11_output_\*\. msame continues"):
        read_embeddings(tmp_path, 12, 128)


def test_missing_mirrored_results_are_named(tmp_path, vectors):
    write_results(tmp_path, vectors)
    write_results(tmp_path, vectors[:11], ending="_flip_output_0")
    with pytest.raises(FaceError, match=r"1 of 12 results are missing: 11_flip_output_\*"):
        read_embeddings(tmp_path, 12, 128)


@pytest.mark.parametrize(("name", "match"), [
    ("3_output_0.txt", r"3_output_0\.bin and 3_output_0\.txt"),
    ("03_output_0.bin", r"03_output_0\.bin and 3_output_0\.bin"),
    ("12_output_0.bin", r"a face, 0 to 11.*12_output_0\.bin"), ("cat_output_0.bin", r"cat_output_0\.bin"),
    ("3_output_1.bin", "one output.*--out_nodes")])  # fmt: skip
def test_a_second_result_and_one_of_no_face_are_named(tmp_path, vectors, name, match):
    write_results(tmp_path, vectors)
    (tmp_path / name).write_bytes(b"1 2 3")
    with pytest.raises(FaceError, match=match):
        read_embeddings(tmp_path, 12, 128)


def test_impossible_sizes_are_named(tmp_path, vectors):
    write_results(tmp_path, vectors, np.float16)
    with pytest.raises(
        FaceError,
        match=r"256 bytes\. This can mean 128 of float16 or 64 of float32 or 32 of float64.*--embedding-size D",
    ):
        read_embeddings(tmp_path, 12)
    with pytest.raises(FaceError, match=r"200 values must have 400 bytes.*0_output_0\.bin' has 256"):
        read_embeddings(tmp_path, 12, 200)
    (tmp_path / "5_output_0.bin").write_bytes(bytes(100))
    with pytest.raises(FaceError, match=r"5_output_0\.bin' has 100"):
        read_embeddings(tmp_path, 12, 128)
    (tmp_path / "5_output_0.bin").write_bytes(b"")
    with pytest.raises(FaceError, match=r"5_output_0\.bin' is empty"):
        read_embeddings(tmp_path, 12, 128)


def test_text_without_numbers_or_with_too_few_is_named(tmp_path):
    for i, text in enumerate(("1.5 2 3", "1.5 nothing 3")):
        (tmp_path / f"{i}_output_0.txt").write_text(text)
    with pytest.raises(FaceError, match=r"1_output_0\.txt' does not.*--outfmt BIN"):
        read_embeddings(tmp_path, 2)
    (tmp_path / "1_output_0.txt").write_text("1.5 2 ")
    with pytest.raises(FaceError, match=r"3 values\. '.*1_output_0\.txt' has 2"):
        read_embeddings(tmp_path, 2)


def test_the_newest_run_is_read(tmp_path, vectors):
    with pytest.raises(FaceError, match=r"not a folder.*Run om/om_eval\.sh first"):
        find_results(tmp_path / "nowhere")
    (tmp_path / "notes").mkdir()
    with pytest.raises(FaceError, match="no results of msame"):
        find_results(tmp_path)

    for stamp in ("20251231_235959", "20260101_000000"):
        write_results(tmp_path / stamp, vectors)

    assert find_results(tmp_path) == tmp_path / "20260101_000000"
    assert find_results(tmp_path / "20251231_235959") == tmp_path / "20251231_235959"


# The first two are ends of logs that Ascend's ModelZoo shows, of a folder and of a single file; the third ran once.
FOLDER = """Inference time: 1004.15ms
[INFO] output data success
Inference average time : 1003.89 ms
Inference average time without first time: 1003.87 ms
[INFO] unload model success, model Id is 1
"""
SINGLE = """[INFO] output data success
Inference average time: 105.417100 ms
Inference average time without first time: 105.422889 ms
"""
ONCE = "Inference average time : 2.41 ms\n"


@pytest.mark.parametrize(("text", "average", "without_first", "ms"), [
    (FOLDER, 1003.89, 1003.87, 1003.87), (SINGLE, 105.4171, 105.422889, 105.422889),
    (ONCE, 2.41, None, 2.41)])  # fmt: skip
def test_average_times_are_read_from_the_log(text, average, without_first, ms):
    timing = read_timing(text)
    assert (timing.average, timing.without_first, timing.ms) == (average, without_first, ms)
    assert read_timing("[ERROR] model execute failed\n") is None


def test_results_without_model_or_log_get_a_table_too(tmp_path, capsys):
    script = load_script("calculate_om_acc")
    image = cv2.imencode(".png", np.zeros((112, 112, 3), np.uint8))[1].tobytes()
    is_same = [k % 2 == 0 for k in range(20)]
    write_bin(tmp_path / "toy.bin", [image] * 40, is_same)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 16))
    rows[1::2][is_same] = rows[0::2][is_same]
    write_results(tmp_path / "out", rows, np.float16)

    words = [str(tmp_path / "out"), str(tmp_path / "toy.bin"), "--far", "0.2"]
    assert script.main([*words, "--embedding-size", "16"]) == 0

    out = capsys.readouterr().out
    assert "1.0000+-0.0000" in out and "no average time" in out
    assert (tmp_path / "out.report.json").is_file()
    with pytest.raises(FaceError, match="no mirrored faces"):
        script.main([*words, "--embedding-size", "16", "--flip"])
    np.zeros(16, np.float16).tofile(tmp_path / "out" / "7_output_0.bin")
    with pytest.raises(FaceError, match="zero embedding for '7_output_0'"):
        script.main([*words, "--embedding-size", "16"])

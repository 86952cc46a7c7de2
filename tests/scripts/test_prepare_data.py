"""prepare_data.py: every source to a data directory, bad input, interruption, inspect, export."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

import prepare_data
from facelib.cli import run_cli
from facelib.data.conversion.job import convert, select
from facelib.data.readers.mxnet_rec import face_payloads, pack, write_rec
from facelib.data.readers.open_records import open_records
from facelib.data.readers.sources import open_source
from facelib.data.tfrecord import frame
from facelib.data.verification.bins import write_bin
from facelib.errors import BadRecord, FaceError
from facelib.image_decoding import check_image
from tests.helpers.tf_example import encode_example

ROOT = Path(__file__).parents[2]
FACES = ROOT.parent / "shared" / "data" / "faces_mix"
needs_faces = pytest.mark.needs_data(FACES)


def encoded(k, size=112, kind=".jpg"):
    image = np.full((size, size, 3), k % 256, np.uint8)
    return cv2.imencode(kind, image)[1].tobytes()


def make_folders(root, counts):
    """{'ann': 2} -> root/ann/0.jpg, root/ann/1.png; returns {name: [bytes]}."""
    images = {}
    for n, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        images[name] = []
        for k in range(count):
            kind = ".png" if k % 2 else ".jpg"
            images[name].append(encoded(40 * n + k, kind=kind))
            (root / name / f"{k}{kind}").write_bytes(images[name][-1])
    return images


def content(out):
    """What a data directory holds, without order: Counter of (class name, image bytes)."""
    records = open_records(out)
    found = [records.read(i) for i in range(len(records))]
    return Counter((records.class_names[label], image) for image, label in found)


def run(*args):
    return prepare_data.main([*map(str, args), "--no-progress"] if args[0] != "inspect" else [*map(str, args)])


# --------------------------------------------------------------------------------------------- sources


@needs_faces
def test_the_real_insightface_directory_converts_whole(tmp_path, capsys):
    assert run(FACES, tmp_path / "data", "--shards", 3) == 0
    records, source = open_records(tmp_path / "data"), open_source(FACES)

    assert (len(records), records.num_classes) == (26_679, 2_818)
    assert "26,679 images, 2,818 identities, 3 shards" in capsys.readouterr().out
    np.testing.assert_array_equal(np.bincount(records.labels), np.bincount(source.labels))
    ours = Counter(hash(records.read(i)) for i in range(len(records)))
    assert ours == Counter(hash((source.read(i), int(source.labels[i]))) for i in range(len(source)))
    # consecutive records are of unrelated identities: the chance of two alike is what random order gives
    alike = np.mean(records.labels[1:] == records.labels[:-1])
    expected = np.sum((np.bincount(records.labels) / len(records)) ** 2)
    assert alike < 2 * expected


def test_folders_are_labelled_in_name_order_and_keep_their_bytes(tmp_path):
    images = make_folders(tmp_path / "faces", {"bob": 3, "ann": 2, "小明": 1, "x/deep": 2})
    convert(tmp_path / "faces", tmp_path / "data", progress=False)
    records = open_records(tmp_path / "data")

    assert records.class_names == sorted(images)
    assert content(tmp_path / "data") == Counter((name, image) for name in images for image in images[name])


def test_hidden_empty_and_foreign_files_do_not_count_and_are_noted(tmp_path, capsys):
    make_folders(tmp_path / "faces", {"ann": 2, "empty": 0, ".hidden": 3})
    (tmp_path / "faces" / "ann" / "notes.txt").write_text("x")
    (tmp_path / "faces" / "ann" / ".DS_Store").write_text("x")

    run(tmp_path / "faces", tmp_path / "data")
    out = capsys.readouterr().out
    assert "2 images, 1 identity, 1 shard" in out
    assert "note: 1 folder without images skipped" in out
    assert "note: 1 file that is not an image skipped" in out


def test_a_list_of_faces_is_read(tmp_path):
    make_folders(tmp_path / "faces", {"a": 1, "b": 2})
    lines = ["30;faces/b/0.jpg", f"4;{tmp_path}/faces/a/0.jpg", "", "30;faces/b/1.png"]
    (tmp_path / "cls_train.txt").write_text("\n".join(lines))
    convert(tmp_path / "cls_train.txt", tmp_path / "data", progress=False)

    assert Counter(name for name, _ in content(tmp_path / "data").elements()) == {"4": 1, "30": 2}


def test_raw_pixels_become_png_without_loss(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    payload = encode_example({"image": image.tobytes(), "label": 0})  # LeonFaith: RGB
    (tmp_path / "old.tfrecords").write_bytes(frame(payload))
    convert(tmp_path / "old.tfrecords", tmp_path / "data", progress=False)
    png, _ = open_records(tmp_path / "data").read(0)

    assert png[:4] == b"\x89PNG"
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1], image)


def test_a_data_directory_can_be_made_from_another_and_export_is_the_way_back(tmp_path):
    make_folders(tmp_path / "faces", {"ann": 5, "bob": 1, "cy": 3})
    convert(tmp_path / "faces", tmp_path / "data", progress=False)
    convert(tmp_path / "data", tmp_path / "again", seed=9, shards=2, progress=False)
    run("export", tmp_path / "again", tmp_path / "back")
    convert(tmp_path / "back", tmp_path / "third", progress=False)

    assert content(tmp_path / "data") == content(tmp_path / "again") == content(tmp_path / "third")
    with pytest.raises(FaceError, match="new folder"):
        run("export", tmp_path / "again", tmp_path / "back")


def test_numbered_identities_are_exported_so_that_they_sort_as_their_labels(tmp_path):
    write_rec(tmp_path / "train.rec", face_payloads([encoded(k) for k in range(12)], list(range(12))))
    run("export", tmp_path / "train.rec", tmp_path / "back")

    assert sorted(p.name for p in (tmp_path / "back").iterdir()) == [f"{k:02d}" for k in range(12)]


# --------------------------------------------------------------------------------------------- options


def test_min_and_max_images_choose_identities_and_images(tmp_path):
    images = make_folders(tmp_path / "faces", {"a": 1, "b": 4, "c": 7})
    convert(tmp_path / "faces", tmp_path / "data", min_images=2, max_images=5, progress=False)
    found = content(tmp_path / "data")

    assert Counter(name for name, _ in found.elements()) == {"b": 4, "c": 5}
    assert set(found) <= {(name, image) for name in images for image in images[name]}
    assert sorted(set(open_records(tmp_path / "data").labels.tolist())) == [0, 1]


def test_select_keeps_a_seeded_choice():
    labels = np.repeat(np.arange(3), [50, 2, 20])[np.random.default_rng(1).permutation(72)]
    chosen = select(labels, 3, 10, seed=0)

    assert np.bincount(labels[chosen], minlength=3).tolist() == [10, 0, 10]
    np.testing.assert_array_equal(chosen, select(labels, 3, 10, seed=0))
    assert set(chosen.tolist()) != set(select(labels, 3, 10, seed=1).tolist())
    with pytest.raises(FaceError, match="The largest identity has 50"):
        select(labels, 51, None, seed=0)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_order(tmp_path):
    make_folders(tmp_path / "faces", {"a": 9, "b": 9})
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        convert(tmp_path / "faces", tmp_path / name, seed=seed, shards=2, progress=False)
    shards = [[f.read_bytes() for f in sorted((tmp_path / n).glob("*.tfrecord"))] for n in ("one", "two", "three")]

    assert [len(shard) > 0 for shard in shards[0]] == [True, True]
    assert shards[0] == shards[1] != shards[2]
    assert content(tmp_path / "one") == content(tmp_path / "three")


def test_a_finished_conversion_is_not_repeated_and_other_options_are_refused(tmp_path, capsys):
    make_folders(tmp_path / "faces", {"a": 2})
    run(tmp_path / "faces", tmp_path / "data")
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "data").iterdir()}
    run(tmp_path / "faces", tmp_path / "data")

    assert "already there, nothing to do" in capsys.readouterr().out
    assert before == {f: f.stat().st_mtime_ns for f in (tmp_path / "data").iterdir()}
    with pytest.raises(FaceError, match=r"--seed 0\. Choose a different OUT"):
        run(tmp_path / "faces", tmp_path / "data", "--seed", 1)
    (tmp_path / "faces" / "a" / "9.jpg").write_bytes(encoded(9))
    with pytest.raises(FaceError, match="different face data"):
        run(tmp_path / "faces", tmp_path / "data")


def write_sized(path, declared, sizes):
    """A TFRecord as MobileFaceNet-Keras-K210 writes it: each record declares one size, whatever its image has."""
    height, width = declared
    records = [
        {"height": height, "width": width, "depth": 3, "label": k, "image_raw": encoded(k, size)}
        for k, size in enumerate(sizes)
    ]
    path.write_bytes(b"".join(frame(encode_example(record)) for record in records))


def test_tfrecords_that_declare_their_size_are_read_at_that_size(tmp_path, capsys):
    write_sized(tmp_path / "casia0.tfrecord", (128, 128), [128, 128, 128])

    run(tmp_path / "casia0.tfrecord", tmp_path / "data")
    run(tmp_path / "data", tmp_path / "again")

    assert "3 images, 3 identities" in capsys.readouterr().out
    for name in ("data", "again"):
        assert json.loads((tmp_path / name / "meta.json").read_text())["image_size"] == [128, 128]


def test_a_declared_size_that_the_images_do_not_have_is_not_believed(tmp_path):
    write_sized(tmp_path / "casia0.tfrecord", (128, 128), [112, 112])

    run(tmp_path / "casia0.tfrecord", tmp_path / "data")

    assert json.loads((tmp_path / "data" / "meta.json").read_text())["image_size"] == [112, 112]


def test_images_of_another_size_are_told_of_the_flag(tmp_path):
    write_sized(tmp_path / "casia0.tfrecord", (128, 128), [128, 96])
    with pytest.raises(
        FaceError, match=r"96x96, but all must be 128x128.* If all images have this size, pass it with --image-"
    ):
        run(tmp_path / "casia0.tfrecord", tmp_path / "data")


# ------------------------------------------------------------------------------------------- bad input


BAD_IMAGES = {
    "empty.jpg": (b"", "empty"),
    "cut.jpg": (encoded(1)[:-20], "end marker"),
    "cut.png": (encoded(1, kind=".png")[:-5], "PNG is cut short"),
    "text.jpg": (b"not an image", "neither JPEG nor PNG"),
    "bitmap.bmp": (encoded(1, kind=".bmp"), "neither JPEG nor PNG"),
    "small.jpg": (encoded(1, size=96), "96x96, but all must be 112x112"),
    "headless.jpg": (b"\xff\xd8\xff\xe0\x00\x02" + bytes(30) + b"\xff\xd9", "no frame header"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_is_named_or_skipped_and_listed(tmp_path, name, capsys):
    make_folders(tmp_path / "faces", {"a": 3, "b": 1})
    data, reason = BAD_IMAGES[name]
    (tmp_path / "faces" / "b" / name).write_bytes(data)
    with pytest.raises(FaceError, match=reason) as error:
        run(tmp_path / "faces", tmp_path / "data")

    assert name in str(error.value) and "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["faces"]  # nothing half-written
    run(tmp_path / "faces", tmp_path / "data", "--skip-bad")
    out = capsys.readouterr().out
    assert "4 images, 2 identities" in out and "skipped 1 bad image " in out and name in out
    assert name in (tmp_path / "data" / "bad_records.txt").read_text()


def test_an_identity_whose_images_are_all_bad_leaves_no_gap_in_the_labels(tmp_path):
    make_folders(tmp_path / "faces", {"a": 2, "c": 2})
    (tmp_path / "faces" / "b").mkdir()
    (tmp_path / "faces" / "b" / "x.jpg").write_bytes(b"")
    convert(tmp_path / "faces", tmp_path / "data", skip_bad=True, progress=False)
    records = open_records(tmp_path / "data")

    assert (records.class_names, sorted(records.labels.tolist())) == (["a", "c"], [0, 0, 1, 1])


def test_an_image_that_only_decoding_shows_to_be_bad_is_found_by_decode_all(tmp_path):
    make_folders(tmp_path / "faces", {"a": 3})
    image = encoded(5, kind=".png")
    middle = len(image) // 2
    (tmp_path / "faces" / "a" / "bad.png").write_bytes(image[:middle] + bytes(8) + image[middle + 8 :])
    convert(tmp_path / "faces", tmp_path / "quick", progress=False)

    with pytest.raises(FaceError, match=r"bad\.png.*cannot be decoded"):
        convert(tmp_path / "faces", tmp_path / "slow", decode_all=True, progress=False)


def test_a_bad_record_of_a_rec_is_named_by_file_and_key(tmp_path):
    write_rec(tmp_path / "a.rec", [pack(encoded(1), 0, 0), pack(encoded(2)[:-9], 0, 1)])

    with pytest.raises(FaceError, match=r"a\.rec record 1 \(offset \d+\): the JPEG is cut short"):
        convert(tmp_path / "a.rec", tmp_path / "data", progress=False)


def test_a_damaged_shard_stops_a_conversion_or_is_skipped(tmp_path):
    make_folders(tmp_path / "faces", {"a": 6})
    convert(tmp_path / "faces", tmp_path / "data", progress=False)
    shard = next((tmp_path / "data").glob("*.tfrecord"))
    data = bytearray(shard.read_bytes())
    data[200] ^= 1
    shard.write_bytes(data)

    with pytest.raises(FaceError, match=r"train-00000-of-00001\.tfrecord record 0 .*checksum"):
        convert(tmp_path / "data", tmp_path / "two", progress=False)
    assert convert(tmp_path / "data", tmp_path / "two", skip_bad=True, progress=False).num_bad == 1


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["nowhere", "out"], "There are no face data at"),
        (["empty", "out"], "has no folders with images"),
        (["empty_file.rec", "out"], "empty"),
        (["text.rec", "out"], "begins with"),
        (["text.xyz", "out"], "none of these"),
        (["pairs.bin", "out"], "verification set"),
        (["text.txt", "out"], "line 1"),
        (["loose", "out"], "in no identity folder"),
        (["faces", "text.xyz"], "is a file"),
        (["faces", "text.xyz/out"], "is a file"),
        (["faces", "loose"], "a new folder or a data directory"),
        (["faces", "faces/out"], "must not be inside SOURCE"),
        (["faces", "out", "--shards", "0"], "--shards must be from 1"),
        (["faces", "out", "--shards", "3"], "--shards 3 for 2 images"),
        (["faces", "out", "--min-images", "0"], "--min-images"),
        (["faces", "out", "--min-images", "3"], "The largest identity has 2"),
        (["faces", "out", "--max-images", "0"], "--max-images"),
        (["faces", "out", "--seed", "-1"], "--seed"),
        (["faces", "out", "--workers", "0"], "--workers must be 1 or more"),
        (["faces", "out", "--image-size", "96,96"], "must be 96x96"),
    ],
)
def test_bad_input_is_one_clear_line_and_nothing_is_written(tmp_path, monkeypatch, args, match):
    monkeypatch.chdir(tmp_path)
    make_folders(Path("faces"), {"a": 2})
    make_folders(Path("loose"), {"a": 1})
    Path("loose/photo.jpg").write_bytes(encoded(1))
    Path("empty").mkdir()
    Path("empty_file.rec").write_bytes(b"")
    for name in ("text.rec", "text.xyz", "text.txt"):
        Path(name).write_text("hello there\n\n")
    write_bin(Path("pairs.bin"), [encoded(1)] * 2, [True])
    before = sorted(Path().rglob("*"))

    with pytest.raises(FaceError, match=match) as error:
        run(*args)
    assert "\n" not in str(error.value)
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("moment", ["read", "write", "end"])
def test_a_killed_conversion_leaves_nothing_that_looks_finished(tmp_path, moment):
    make_folders(tmp_path / "faces", {"a": 4, "b": 4})
    patch = {
        "read": "two_passes.ImageChecker.__call__ = lambda *a: os.kill(os.getpid(), 9)",
        "write": "two_passes._write_shard = lambda *a: os.kill(os.getpid(), 9)",
        "end": "os.rename = lambda *a: os.kill(os.getpid(), 9)",
    }[moment]
    code = (
        f"import os; from pathlib import Path; from facelib.data.conversion import job, two_passes; {patch}; "
        f"job.convert(Path({str(tmp_path / 'faces')!r}), Path({str(tmp_path / 'data')!r}), progress=False)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)

    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "data").exists()
    convert(tmp_path / "faces", tmp_path / "data", progress=False)
    assert len(open_records(tmp_path / "data")) == 8
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "faces"]  # the leftovers are gone


def test_two_conversions_to_one_place_do_not_mix(tmp_path):
    make_folders(tmp_path / "faces", {"a": 2})
    code = (
        "import time; from pathlib import Path; from facelib.files import working_folder\n"
        f"with working_folder(Path({str(tmp_path / 'data')!r})): print('at work', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"at work\n"
        with pytest.raises(FaceError, match="Another conversion"):
            convert(tmp_path / "faces", tmp_path / "data", progress=False)
    finally:
        other.kill()
        other.wait()
    convert(tmp_path / "faces", tmp_path / "data", progress=False)


def test_ctrl_c_leaves_nothing(tmp_path):
    make_folders(tmp_path / "faces", {"a": 2})
    code = (
        "import time; from facelib.data.conversion import two_passes; from facelib import cli; import prepare_data\n"
        "two_passes._write_shard = lambda *a: print('at work', flush=True) or time.sleep(60)\n"
        f"cli.run_cli(lambda: prepare_data.main([{str(tmp_path / 'faces')!r}, {str(tmp_path / 'data')!r}]))"
    )
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + code
    )  # a background job ignores it
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"at work\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)

    assert (process.returncode, err) == (130, b"interrupted\n")
    assert [p.name for p in tmp_path.iterdir()] == ["faces"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    make_folders(tmp_path / "faces", {"a": 40})
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"  # EFBIG after 9,000 bytes of a file
        "from facelib import cli; import prepare_data\n"
        f"cli.run_cli(lambda: prepare_data.main([{str(tmp_path / 'faces')!r}, {str(tmp_path / 'data')!r}]))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert ended.returncode == 1
    assert ended.stderr.startswith("error: The disk is full") and ended.stderr.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["faces"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_named(tmp_path):
    make_folders(tmp_path / "faces", {"a": 1})
    (tmp_path / "locked").mkdir(mode=0o500)

    with pytest.raises(FaceError, match="not writable"):
        convert(tmp_path / "faces", tmp_path / "locked" / "data", progress=False)


# --------------------------------------------------------------------------------------------- inspect


@pytest.mark.parametrize("kind", ["folders", "rec", "list", "tfrecord", "data", "bin"])
def test_inspect_counts_and_draws_every_format(tmp_path, kind, capsys):
    images = make_folders(tmp_path / "faces", {"a": 3, "b": 1})
    flat = [image for name in images for image in images[name]]
    path = {"folders": "faces", "rec": "x.rec", "list": "x.txt", "tfrecord": "x.tfrecord", "bin": "x.bin"}.get(
        kind, "data"
    )
    write_rec(tmp_path / "x.rec", face_payloads(flat, [0, 0, 0, 1]))
    (tmp_path / "x.txt").write_text(
        "".join(f"{k // 3};faces/{n}\n" for k, n in enumerate(["a/0.jpg", "a/1.png", "a/2.jpg", "b/0.jpg"]))
    )
    rows = [encode_example({"image_raw": image, "label": k // 3}) for k, image in enumerate(flat)]
    (tmp_path / "x.tfrecord").write_bytes(b"".join(map(frame, rows)))
    write_bin(tmp_path / "x.bin", flat, [True, False])
    convert(tmp_path / "faces", tmp_path / "data", progress=False)

    assert run("inspect", tmp_path / path, "--sheet", tmp_path / "sheet.png") == 0
    out = capsys.readouterr().out
    assert ("2 pairs, 1 genuine, 4 images" if kind == "bin" else "4 images, 2 identities") in out
    assert "JPEG 112x112 75 %, PNG 112x112 25 %" in out
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    first = np.median(sheet[4:116, 4:116].reshape(-1, 3), axis=0)
    assert np.ptp(sheet) > 200 and first.max() < 60  # faces on white, the first of them dark


def test_inspect_shows_damage_and_refuses_what_is_not_there(tmp_path, capsys):
    make_folders(tmp_path / "faces", {"a": 3})
    (tmp_path / "faces" / "a" / "cut.jpg").write_bytes(encoded(1)[:-9])
    run("inspect", tmp_path / "faces", "--sheet", tmp_path / "s.png")

    assert "1 bad, the first" in capsys.readouterr().out
    with pytest.raises(FaceError, match="no face data"):
        run("inspect", tmp_path / "nowhere")
    with pytest.raises(FaceError, match=r"must end in \.png"):
        run("inspect", tmp_path / "faces", "--sheet", tmp_path / "s.jpg")


def test_meta_json_tells_what_was_made_from_what(tmp_path):
    make_folders(tmp_path / "faces", {"a": 2, "b": 2})
    convert(tmp_path / "faces", tmp_path / "data", shards=2, seed=8, progress=False)
    meta = json.loads((tmp_path / "data" / "meta.json").read_text())

    assert (meta["num_images"], meta["num_classes"], meta["image_size"], meta["seed"]) == (4, 2, [112, 112], 8)
    assert meta["source"]["kind"] == "identity folders" and len(meta["source"]["hash"]) == 64
    assert [shard["records"] for shard in meta["shards"]] == [2, 2]


@pytest.mark.parametrize("shape", [(112, 112), (96, 128), (1, 300)])
@pytest.mark.parametrize("kind", [".jpg", ".png"])
@pytest.mark.parametrize("is_grey", [True, False])
def test_the_header_gives_the_size_that_decoding_gives(shape, kind, is_grey):
    image = np.random.default_rng(0).integers(0, 256, shape if is_grey else (*shape, 3), np.uint8)
    data = cv2.imencode(kind, image)[1].tobytes()

    assert check_image(data) == cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).shape[:2]
    for size in range(len(data) - 1):
        with pytest.raises(BadRecord):
            check_image(data[:size])
        if size > 400:
            break


def test_a_missing_permission_is_one_line(capsys):
    def main():
        raise PermissionError(13, "Permission denied", "/secret/train.rec")

    with pytest.raises(SystemExit) as end:
        run_cli(main)
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith("error: '/secret/train.rec': Permission denied.")


class ResourceExhaustedError(Exception):
    """Stands for TensorFlow's."""


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (MemoryError("Unable to allocate 9.3 GiB"), "The memory is full (Unable to allocate 9.3 GiB). To use"),
        (MemoryError(), "The memory is full. To use less memory, lower the batch size of the training"),
        (
            ResourceExhaustedError("OOM when allocating\ntensor"),
            "The memory is full (OOM when allocating tensor). To use",
        ),
        (OSError(24, "Too many open files", "x"), "Too many files are open. Raise this limit: ulimit -n 4096."),
        (OSError(36, "File name too long", "x"), "'x': File name too long."),
    ],
)
def test_a_full_memory_and_a_limit_of_the_system_are_one_line(error, match, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        run_cli(main)
    printed = capsys.readouterr().err
    assert end.value.code == 1 and printed.startswith(f"error: {match}") and printed.count("\n") == 1


def test_a_reader_that_stops_early_sees_no_traceback(tmp_path):
    make_folders(tmp_path / "faces", {"a": 1})
    command = f"{sys.executable} prepare_data.py inspect {tmp_path / 'faces'} | true"
    ended = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)

    assert ended.stderr == ""


def test_a_folder_name_that_is_no_text_is_refused(tmp_path):
    make_folders(tmp_path / "faces", {"a": 2})
    os.rename(tmp_path / "faces" / "a", os.fsencode(tmp_path / "faces") + b"/\xff\xfe raw")
    with pytest.raises(
        FaceError, match=r"The folder names of identities must be UTF-8\. Received: folder b'\\xff\\xfe raw'"
    ):
        convert(tmp_path / "faces", tmp_path / "data", progress=False)
    assert not (tmp_path / "data").exists()


def test_an_address_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(FaceError, match=r"Only train\.py and doctor\.py read data from an address"):
        convert(Path("gs://bucket/faces"), tmp_path / "data", progress=False)


@pytest.mark.parametrize("most, columns", [(1, 2), (5, 5), (20, 8)])
def test_a_contact_sheet_has_no_empty_column(tmp_path, most, columns):
    from facelib.data.curation.inspection import inspect_data

    make_folders(tmp_path / "faces", {"ann": most, "bob": 1})
    result = inspect_data(tmp_path / "faces")
    assert result.columns == columns and len(result.images) == 2 * columns
    assert result.captions[:2] == ["ann", f"of {most} image{'s' * (most > 1)}"]
    assert result.captions[columns : columns + 2] == ["bob", "of 1 image"]

"""doctor.py: a disk, a decoder, an augmentation and a step that are slow in turn, and what it says of them."""

import functools
import os
import re
import time

import doctor
import pytest

import dataset
from facelib import nvidia
from facelib.data import sampling
from facelib.data.augment import random_flip
from facelib.data.conversion.job import convert
from facelib.data.storage import LocalFiles
from facelib.data.synthetic.files import SyntheticSet, write_folders
from facelib.errors import FaceError
from facelib.image_decoding import decode_image
from tests.helpers.fake_gpu import fake_gpu
from tests.helpers.slow import slow_unless_quick
from tests.helpers.tiny_train import tiny_backbone

RECIPE = """name = "x"
[model]
backbone = "mobilefacenet"
width = 0.25
[data]
batch_size = 16
[[stage]]
loss = "arcface"
"""
NAP = 0.02  # seconds an image; a sleep costs the other thread nothing
FAST = {"read": 9000.0, "decode": 8000.0, "augment": 7000.0, "pipeline": 2500.0}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with data, 60 faces, and recipe.toml."""
    root = tmp_path_factory.mktemp("home")
    write_folders(root / "faces", SyntheticSet(10, 6))
    convert(root / "faces", root / "data", progress=False)
    (root / "recipe.toml").write_text(RECIPE)
    return root


@pytest.fixture(autouse=True)
def no_gpu(tmp_path, monkeypatch):
    """No test asks the GPUs of this machine."""
    (tmp_path / "gpu").mkdir()
    path = os.environ["PATH"]
    fake_gpu(tmp_path / "gpu", monkeypatch)
    monkeypatch.setenv("PATH", path)
    monkeypatch.setattr(nvidia.shutil, "which", lambda *a, **k: None)


@pytest.fixture
def tiny_net(monkeypatch):
    """A net that is built in a moment in the place of the recipe's."""
    monkeypatch.setattr(doctor, "build", lambda recipe: tiny_backbone(recipe.model))


def run(home, *args):
    """Runs the doctor; without the processes that measure parts, unless `args` says otherwise."""
    flags = ["--data", str(home / "data"), "--seconds", "0.3", "--threads", "2", "--no-parts"]
    return doctor.main([str(home / "recipe.toml"), *flags, *args])


def slowed(function):
    @functools.wraps(function)
    def slow(*args, **options):
        time.sleep(NAP)
        return function(*args, **options)

    return slow


def rates_of(out):
    """{what: images/s} of the table."""
    rows = re.findall(r"^(\S.*?) +([\d,]+) images/s(?: \(2 threads\))?$", out, re.MULTILINE)
    return {what: int(rate.replace(",", "")) for what, rate in rows}


@pytest.mark.parametrize(
    ("part", "shuffle"),
    slow_unless_quick(
        [(part, shuffle) for part in ("read", "decode", "augment") for shuffle in ("records", "blocks")],
        [("read", "blocks"), ("decode", "records"), ("augment", "blocks")],
    ),
)
def test_the_slow_part_of_the_input_is_named(home, monkeypatch, capsys, part, shuffle):
    if part == "read":
        monkeypatch.setattr(LocalFiles, "read", slowed(LocalFiles.read))
    elif part == "decode":
        monkeypatch.setattr(dataset, "decode_image", slowed(decode_image))
        monkeypatch.setattr(doctor, "decode_image", dataset.decode_image)
    else:
        monkeypatch.setattr(dataset, "make_augment", lambda *a: slowed(random_flip))
    if (part, shuffle) == ("read", "blocks"):  # a read is of 60 records: as slow as 60 of them
        monkeypatch.setattr(sampling, "BLOCK_RECORDS", 1)

    assert run(home, "--no-step", "--set", f"data.shuffle={shuffle}") == 0
    out = capsys.readouterr().out
    rates = rates_of(out)
    slow = {"read": "reading alone", "decode": "decoding alone", "augment": "augmenting alone"}[part]
    assert set(rates) == {"reading alone", "decoding alone", "augmenting alone", "the whole input"}
    assert rates[slow] <= 2 / NAP
    assert min(rates, key=lambda name: (rates[name], name == "the whole input")) in (slow, "the whole input")
    assert out.splitlines()[-1].startswith(
        f"{doctor.DOING[part]}: {rates[slow]:,} images/s alone; the whole input pipeline delivers"
    )
    if part == "read":
        assert ("shuffle = 'blocks'" in out) == (shuffle == "records")


def test_a_slow_step_is_nothing_to_mend(home, tiny_net, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "step_rate", lambda *a: 3.0)
    run(home)

    assert re.search(r"^The step: 3 images/s; the input pipeline could deliver [\d,]+: \d+ times .*Nothing to do\.$",
                     capsys.readouterr().out, re.MULTILINE)  # fmt: skip


def test_a_table_of_the_machine_comes_first(home, capsys):
    run(home, "--no-step")
    out = capsys.readouterr().out.splitlines()
    rows = dict(line.split(maxsplit=1) for line in out[:8])
    assert list(rows) == ["driver", "CUDA", "cuDNN", "TensorFlow", "devices", "cores", "RAM", "disk"]
    assert rows["driver"].startswith("none") and rows["devices"] == "the CPU alone"
    assert re.match(r"\d+ of \d+, \S", rows["cores"]) and re.match(r"[\d.]+ GB, [\d.]+ GB free$", rows["RAM"])
    assert re.match(r"[\d,]+ MB/s, ", rows["disk"])


def test_a_gpu_that_tensorflow_does_not_see_ends_it_after_the_table(home, tiny_net, monkeypatch, capsys):
    (nvidia.DEV / "nvidia0").touch()
    with pytest.raises(FaceError, match=r"Found: \S+/nvidia0\. Missing: libcudart"):
        run(home)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()][-1] == "disk"
    monkeypatch.setattr(doctor, "step_rate", lambda *a: 3.0)
    run(home, "--device", "cpu")
    assert capsys.readouterr().out.endswith(
        "This machine has a GPU that is not used: leave out --device cpu and CUDA_VISIBLE_DEVICES.\n"
    )


def test_a_batch_that_does_not_fit_is_not_run(home, tiny_net, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "step_rate", None)
    assert run(home, "--set", "data.batch_size=100000") == 0
    out = capsys.readouterr().out
    assert re.search(
        r"^memory of a step +about [\d.]+ GB with data\.batch_size = 100000; [\d.]+ GB are free$", out, re.M
    )
    assert re.search(
        r"^Memory: the step was not run\..* Use --set data\.batch_size=\d+, or .*\.$", out.splitlines()[-1]
    )


def test_mixed_float16_on_a_cpu_is_measured_against_float32(home, tiny_net, monkeypatch, capsys):
    rates = {"mixed_float16": 3.0, "float32": 12.0}
    monkeypatch.setattr(doctor, "step_rate", lambda recipe, *a: rates[recipe.precision])
    run(home, "--set", "precision=mixed_float16")
    assert capsys.readouterr().out.endswith("--set precision=float32 is 4.0 times as fast on this CPU.\n")


def test_the_fastest_size_of_a_part_is_advised(home, tiny_net, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "step_rate", lambda *a: 10.0)
    monkeypatch.setattr(doctor, "rate_in_parts", lambda recipe, size, args: {8: 11.0, 16: 13.5, 32: 12.0}[size])
    run(home, "--set", "data.batch_size=64", "--parts")
    out = capsys.readouterr().out
    assert rates_of(out)["the step, parts of 32"] == 12
    assert out.endswith("--set train.batch_norm=part train.part=16 is 1.35 times as fast on this CPU.\n")


def test_parts_that_are_hardly_faster_are_not_advised(home, tiny_net, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "step_rate", lambda *a: 10.0)
    monkeypatch.setattr(doctor, "rate_in_parts", lambda *a: 10.4)
    run(home, "--parts")
    assert capsys.readouterr().out.endswith("Nothing to do.\n")


@pytest.mark.slow
def test_a_real_step_is_timed_whole_and_in_parts(home, capsys):
    run(home, "--parts")

    rates = rates_of(capsys.readouterr().out)
    assert rates["the training step alone"] > 0
    assert rates["the step, parts of 8"] > 0


@pytest.mark.parametrize(
    ("change", "threads", "shuffle", "expected"),
    [
        ({"step": 61.0, "pipeline": 5300.0}, 2, "records", r"The step: 61 .*deliver 5,300: 87 times.*Nothing to do\.$"),
        ({"decode": 3000.0, "step": 9000.0}, 8, "records", r"Decoding: 3,000 .*use 9,000\. Use more cores\.$"),
        ({"step": 2000.0}, 2, "records", r"The step: 2,000 .*deliver 2,500: 1\.2 times.*Nothing to do\.$"),
        (
            {"step": 2400.0, "read": 3000.0},
            2,
            "records",
            r"Reading: 3,000 .*could use 2,400\. Use more.*'blocks'.*disk\.$",
        ),
        (
            {"read": 3000.0},
            2,
            "blocks",
            r"Reading: 3,000 .*delivers 2,500\. If the step is faster than that: use more than 2 --threads .* disk\.$",
        ),
        (
            {"decode": 3000.0},
            2,
            "records",
            r"Decoding: 3,000 .*faster than that: use --threads 8, as many as .* cores\.$",
        ),
        ({"decode": 3000.0}, 8, "records", r"Decoding: 3,000 .*faster than that: use more cores\.$"),
        ({"augment": 3000.0}, 8, "records", r"Augmenting: 3,000 .*use fewer augmentations"),
        (
            {"pipeline": 900.0},
            8,
            "records",
            r"Threads wait.*without this delay 2,639 images/s;.*delivers 900\. Try --threads 1\.$",
        ),
        ({"pipeline": 900.0}, 3, "records", r"Threads wait.*Try --threads 8\.$"),
    ],
)
def test_the_sentence(change, threads, shuffle, expected):
    sentence = doctor.verdict(FAST | change, threads, 8, shuffle)

    assert re.match(expected, sentence), sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["--threads", "0"], "--threads must be at least 1"),
        (["--seconds", "0"], "--seconds must be above 0"),
        (["--seconds", "nan"], "--seconds must be above 0"),
        (["--data", "nowhere"], "no training data at"),
        (["--set", "data.shuffle=buffer"], "shuffle"),
    ],
)
def test_bad_input_is_one_line(home, args, match):
    with pytest.raises(FaceError, match=match) as error:
        run(home, *args)
    assert "\n" not in str(error.value)


def test_data_without_the_right_size_are_named(home, tmp_path):
    with pytest.raises(FaceError, match="must be 112x112"):
        write_small(tmp_path)
        doctor.main([str(home / "recipe.toml"), "--data", str(tmp_path / "data"), "--seconds", "0.1", "--no-step"])


def write_small(root):
    """A data directory of 16x16 images."""
    import cv2
    import numpy as np

    for name in ("a", "b"):
        (root / "faces" / name).mkdir(parents=True)
        cv2.imwrite(str(root / "faces" / name / "0.png"), np.zeros((16, 16, 3), np.uint8))
    convert(root / "faces", root / "data", image_size=(16, 16), progress=False)

"""A GPU that TensorFlow does not see stops a training in one line; the device of a training is said."""

import os
import re

import pytest

from facelib import devices
from facelib.devices import device_notes, settle_device, training_on, unseen_gpu
from facelib.errors import FaceError
from facelib.nvidia import Nvidia
from tests.helpers.fake_gpu import A100, VERSION, fake_gpu


@pytest.fixture
def seen(monkeypatch):
    """The list of the names of the GPUs that TensorFlow sees; a test fills it."""
    names = []
    monkeypatch.setattr(devices, "gpu_names", lambda: names)
    return names


@pytest.mark.parametrize("sign", [{"smi": A100}, {"devices": ["nvidia0"]}, {"module": VERSION}])
@pytest.mark.parametrize("choice", ["auto", "gpu"])
def test_a_gpu_that_tensorflow_does_not_see_stops(tmp_path, monkeypatch, choice, sign):
    fake_gpu(tmp_path, monkeypatch, **sign)
    with pytest.raises(FaceError) as error:
        settle_device(choice)
    text = str(error.value)
    assert re.match(
        r"This machine has a GPU that TensorFlow does not see\. Found: .+\. Missing: libcudart\.so\.12, .*"
        r"libcudnn\.so\.9\. Run make setup GPU=1, or .* pip install 'tensorflow\[and-cuda\]==[\d.]+'\. Or .*"
        r"--device cpu\.$",
        text,
    ), text
    assert "\n" not in text and len(text) < 600


def test_the_cpu_is_taken_when_it_is_asked_for(tmp_path, monkeypatch):
    fake_gpu(tmp_path, monkeypatch, A100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    settle_device("cpu")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize("hidden", ["", "-1", "-1,0"])
def test_hidden_gpus_are_not_missed(tmp_path, monkeypatch, hidden):
    fake_gpu(tmp_path, monkeypatch, A100, ["nvidia0"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    settle_device("auto")
    with pytest.raises(FaceError, match=f"CUDA_VISIBLE_DEVICES={hidden} hides all"):
        settle_device("gpu")


def test_without_a_gpu_auto_goes_on_and_gpu_stops(tmp_path, monkeypatch):
    fake_gpu(tmp_path, monkeypatch)
    settle_device("auto")
    with pytest.raises(FaceError, match=r"--device gpu needs a GPU\. Found: no /dev/nvidia0.*--device cpu\.$"):
        settle_device("gpu")


def test_a_gpu_that_tensorflow_sees_is_used(tmp_path, monkeypatch, seen):
    fake_gpu(tmp_path, monkeypatch, A100, ["nvidia0"])
    seen.append("NVIDIA A100-SXM4-40GB")
    settle_device("auto")
    settle_device("gpu")
    assert training_on() == "training on: 1 GPU (NVIDIA A100-SXM4-40GB, 40 GiB)"
    assert device_notes("mixed_float16") == []


def test_one_of_several_gpus_is_said(tmp_path, monkeypatch, seen):
    fake_gpu(tmp_path, monkeypatch)
    seen.extend(["Tesla T4"] * 2)
    assert training_on() == "training on: 1 of 2 GPUs (Tesla T4)"
    assert "launch.py -n 2" in device_notes("float32")[0]


def test_the_cpu_is_said_with_its_threads(tmp_path, monkeypatch):
    fake_gpu(tmp_path, monkeypatch)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "3")
    assert training_on() == "training on the CPU, 3 threads"
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS")
    monkeypatch.setattr(devices, "cores", lambda: 1)
    assert training_on() == "training on the CPU, 1 thread"


def test_mixed_float16_on_a_cpu_is_a_note_with_its_factor(tmp_path, monkeypatch):
    fake_gpu(tmp_path, monkeypatch)
    assert device_notes("float32") == []
    (note,) = device_notes("mixed_float16")
    assert f"{devices.MIXED_ON_CPU} x as long" in note and "--set precision=float32" in note


def test_an_nvidia_smi_that_fails_is_a_note(tmp_path, monkeypatch):
    fake_gpu(tmp_path, monkeypatch, "NVIDIA-SMI has failed", code=9)
    settle_device("auto")
    assert device_notes("float32") == ["nvidia-smi shows no GPU: NVIDIA-SMI has failed; to use a GPU, install "
                                       "or repair the driver"]  # fmt: skip


@pytest.mark.parametrize(
    "is_cuda, driver, loads, nodes, expected",
    [
        (False, "550.54", True, True, r"Missing: CUDA in TensorFlow .* built without it\. Run make setup GPU=1"),
        (True, "550.54", False, True, r"Missing: libcuda\.so\.1 of the driver\. Install .*--gpus all"),
        (True, "470.57.02", True, True, r"driver 470\.57\.02\. Missing: driver 525\.60.* or newer, for CUDA 12\.5"),
        (True, "", True, False, r"Missing: \S+/nvidia0\. Start a container with --gpus all; ask Slurm"),
        (True, "550.54", True, True, r"Missing: unknown\. See what TensorFlow says: python -c"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(tmp_path, monkeypatch, is_cuda, driver, loads, nodes, expected):
    import tensorflow as tf

    fake_gpu(tmp_path, monkeypatch, devices=["nvidia0"] if nodes else [])
    build = {"is_cuda_build": is_cuda, "cuda_version": "12.5.1", "cudnn_version": "9"}
    monkeypatch.setattr(tf.sysconfig, "get_build_info", lambda: build)
    monkeypatch.setattr(devices, "DEV", tmp_path / "dev")
    monkeypatch.setattr(devices, "missing_libraries", lambda *versions: [])
    monkeypatch.setattr(devices, "can_load", lambda name: loads)
    assert re.search(expected, unseen_gpu(Nvidia(("nvidia-smi lists X",), driver=driver)))


def test_the_rows_of_the_table(tmp_path, monkeypatch):
    fake_gpu(tmp_path, monkeypatch, A100, ["nvidia0"])
    rows = dict(devices.device_rows())
    assert list(rows) == ["driver", "CUDA", "cuDNN", "TensorFlow", "devices"]
    assert rows["driver"].startswith("550.54.15 (nvidia-smi lists NVIDIA A100-SXM4-40GB, ")
    assert "missing: libcudart.so.12" in rows["CUDA"] and "missing: libcudnn.so.9" in rows["cuDNN"]
    assert rows["devices"] == "the CPU alone"

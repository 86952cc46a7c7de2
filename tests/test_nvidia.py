"""What /dev, the driver's files and nvidia-smi say of GPUs."""

import pytest

from facelib import nvidia
from facelib.nvidia import Gpu, find_nvidia, parse_gpus
from tests.helpers.fake_gpu import A100, VERSION, fake_gpu

GIB = 1 << 30


def test_every_sign_of_a_gpu_is_found(tmp_path, monkeypatch):
    fake_gpu(tmp_path, monkeypatch, A100, ["null", "nvidiactl", "nvidia10", "nvidia2"], VERSION)
    found = find_nvidia()
    assert found.gpus == (Gpu("NVIDIA A100-SXM4-40GB", 40 * GIB, 40_000 << 20),)
    assert (found.driver, found.problem) == ("550.54.15", "")
    assert [sign.rpartition("/")[2] for sign in found.signs] == [
        "nvidia-smi lists NVIDIA A100-SXM4-40GB",
        "nvidia2",
        "nvidia10",
        "version",
    ]


@pytest.mark.parametrize(
    "change, driver",
    [({"smi": A100}, "550.54.15"), ({"devices": ["nvidia0"]}, ""), ({"module": VERSION}, "550.54.15")],
)
def test_one_sign_is_enough(tmp_path, monkeypatch, change, driver):
    fake_gpu(tmp_path, monkeypatch, **change)
    assert len(find_nvidia().signs) == 1
    assert find_nvidia().driver == driver


def test_a_machine_without_gpus_has_no_sign(tmp_path, monkeypatch):
    fake_gpu(tmp_path, monkeypatch, devices=["null", "nvidiactl", "nvidia-uvm"])
    assert find_nvidia() == nvidia.Nvidia()


@pytest.mark.parametrize(
    "text, code",
    [
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9),
        ("No devices were found", 6),
        ("No devices were found", 0),
        ("", 1),
    ],
)
def test_an_nvidia_smi_that_fails_is_a_problem_and_no_sign(tmp_path, monkeypatch, text, code):
    fake_gpu(tmp_path, monkeypatch, text, code=code)
    found = find_nvidia()
    assert (found.signs, found.gpus) == ((), ())
    assert (text or "exit code 1") in found.problem


def test_an_nvidia_smi_that_hangs_or_cannot_run_is_a_problem(tmp_path, monkeypatch):
    fake_gpu(tmp_path, monkeypatch, A100)
    program = tmp_path / "bin" / "nvidia-smi"
    monkeypatch.setattr(nvidia, "_ASK_SECONDS", 0.05)
    program.write_text("#!/bin/sh\nwhile :; do :; done\n")
    assert "does not answer" in find_nvidia().problem
    program.write_text("#!/nowhere\n")
    assert "cannot be run" in find_nvidia().problem


def test_other_forms_of_nvidia_smi_are_read():
    assert parse_gpus("GPU 0: Tesla T4 (UUID: GPU-1a)\nGPU 1: Tesla T4 (UUID: GPU-2b)") == ((Gpu("Tesla T4"),) * 2, "")
    assert parse_gpus("Tesla T4, 15360, 535.104.05") == ((Gpu("Tesla T4", 15 * GIB),), "535.104.05")


def test_a_library_of_a_pip_package_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(nvidia, "can_load", lambda name: False)
    names = nvidia.missing_libraries("12.5.1", "9")
    assert {"libcudart.so.12", "libcudnn.so.9"} <= set(names)
    for name in names:
        (tmp_path / "nvidia" / name.split(".")[0] / "lib").mkdir(parents=True)
        (tmp_path / "nvidia" / name.split(".")[0] / "lib" / name).touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert nvidia.missing_libraries("12.5.1", "9") == []
    assert nvidia.missing_libraries("13.0", "9") == ["libcudart.so.13", "libcublas.so.13"]

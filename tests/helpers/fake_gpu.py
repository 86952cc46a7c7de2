"""A machine with an NVIDIA GPU, as far as files and nvidia-smi can show one."""

import sys

from facelib import nvidia

A100 = "NVIDIA A100-SXM4-40GB, 40960 MiB, 40000 MiB, 550.54.15"
VERSION = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version: 12\n"


def fake_gpu(folder, monkeypatch, smi=None, devices=(), module="", code=0):
    """Puts a fake /dev, /proc/driver/nvidia and nvidia-smi in the places of the real ones. No CUDA library is there.

    Args:
        folder: an empty folder.
        monkeypatch: of pytest.
        smi: what nvidia-smi prints; None for a machine without it.
        devices: names in /dev.
        module: content of /proc/driver/nvidia/version; "" for no such file.
        code: exit code of nvidia-smi.
    """
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in ("dev", "driver", "bin"):
        (folder / name).mkdir()
    for name in devices:
        (folder / "dev" / name).touch()
    if module:
        (folder / "driver" / "version").write_text(module)
    if smi is not None:
        program = folder / "bin" / "nvidia-smi"
        program.write_text(f"#!{sys.executable} -S\nprint({smi!r})\nraise SystemExit({code})\n")
        program.chmod(0o755)
    monkeypatch.setattr(nvidia, "can_load", lambda name: False)
    monkeypatch.setattr(nvidia, "_is_in_packages", lambda name: False)
    monkeypatch.setattr(nvidia, "DEV", folder / "dev")
    monkeypatch.setattr(nvidia, "DRIVER", folder / "driver")
    monkeypatch.setenv("PATH", str(folder / "bin"))

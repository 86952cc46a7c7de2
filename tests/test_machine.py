"""Cores, memory and disk, as files of the system say."""

import pytest

from facelib import machine


@pytest.fixture
def system(tmp_path, monkeypatch):
    """An empty folder in the place of /proc and of the files of the control group."""
    monkeypatch.setattr(machine, "PROC", tmp_path)
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    return tmp_path


def test_memory_is_what_the_system_and_the_control_group_leave(system):
    assert (machine.total_bytes(), machine.free_bytes()) == (None, None)
    (system / "meminfo").write_text("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 600 kB\n")
    (system / "memory.max").write_text("max\n")
    assert (machine.total_bytes(), machine.free_bytes()) == (1000 << 10, 600 << 10)
    (system / "memory.max").write_text(f"{500 << 10}\n")
    (system / "memory.current").write_text(f"{100 << 10}\n")
    assert (machine.total_bytes(), machine.free_bytes()) == (500 << 10, 400 << 10)


def test_the_processor_has_a_name(system):
    assert machine.processor()
    (system / "cpuinfo").write_text("processor : 0\nmodel name\t: AMD EPYC  7B13\nprocessor : 1\n")
    assert machine.processor() == "AMD EPYC 7B13"


def test_a_disk_is_read_in_sequence(tmp_path, monkeypatch):
    files = [tmp_path / name for name in "ab"]
    for file in files:
        file.write_bytes(bytes(1000))
    speed, done = machine.disk_speed(files)
    assert speed > 0 and done == 2000
    monkeypatch.setattr(machine, "_DISK_SECONDS", 0)
    assert machine.disk_speed(files)[1] == 1000

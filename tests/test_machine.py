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


def test_the_board_its_heat_and_its_clock_are_read_where_they_can_be(system, monkeypatch):
    monkeypatch.setattr(machine, "SYS", system)
    assert (machine.board(), machine.temperature(), machine.clock_mhz(), machine.peak_bytes()) == (None,) * 4
    for name, text in {
        "device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0", "self/status": "Name: x\nVmHWM:\t  2000 kB\n",
        "class/thermal/thermal_zone0/temp": "48312\n", "class/thermal/thermal_zone1/temp": "51900\n",
        "class/thermal/thermal_zone2/temp": "", "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000\n",
        "devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "2400000\n",
    }.items():  # fmt: skip
        (system / name).parent.mkdir(parents=True, exist_ok=True)
        (system / name).write_text(text)

    assert machine.board() == "Raspberry Pi 5 Model B Rev 1.0"
    assert (machine.temperature(), machine.clock_mhz(), machine.peak_bytes()) == (51.9, 2400, 2000 << 10)


@pytest.mark.parametrize(
    ("kernel", "program", "expected"),
    [("x86_64", "aarch64", True), ("aarch64", "armv7l", False), ("x86_64", "x86_64", False), (None, "aarch64", False)],
)
def test_an_emulated_cpu_is_of_another_family_than_the_kernel(system, monkeypatch, kernel, program, expected):
    monkeypatch.setattr(machine.platform, "machine", lambda: program)
    if kernel:
        (system / "sys" / "kernel").mkdir(parents=True)
        (system / "sys" / "kernel" / "arch").write_text(f"{kernel}\n")

    assert machine.is_emulated() is expected

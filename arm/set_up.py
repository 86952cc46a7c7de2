"""Prepare an emulated ARM computer (`make arm`): QEMU, Debian's Python for arm64, and requirements-board.txt.

python arm/set_up.py

The script needs Debian or Ubuntu (apt-get and dpkg-deb), but no root rights. The downloads go to ~/.cache/mobilearc/arm
(400 MB), outside the project, and `.venv-arm` is a link to this folder. `.venv-arm/bin/python` is Python on the
emulated CPU; the variable ARM_CPU chooses this CPU. Every script that works with the board install also runs on this
Python.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence

from facelib.cli import run_cli, script_parser
from facelib.errors import FaceError
from facelib.files import cache_home, scripts_folder

QEMU = "qemu-aarch64"
OLDEST_QEMU = (8, 1)  # earlier ones show programs the /proc/cpuinfo of this computer, and LiteRT crashes
PYTHON = """#!/bin/sh
# Python on an emulated ARM CPU: ARM_CPU is a CPU that QEMU knows, ARM_QEMU another qemu-aarch64.
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd -P)
exec "${ARM_QEMU:-$here/qemu-aarch64}" -cpu "${ARM_CPU:-cortex-a53}" -L "$here/root" "$here/root/usr/bin/python3" "$@"
"""


def main(argv: Sequence[str] | None = None) -> int:
    script_parser(__doc__).parse_args(argv)
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise FaceError(f"make arm needs Debian or Ubuntu. This computer does not have {program}.")
    folder, link = cache_home() / "arm", scripts_folder() / ".venv-arm"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="arm-") as name:
        made = Path(name) / "made"
        made.mkdir()
        print("1 of 3: Python for arm64")
        unpack(fetch(Path(name), ["python3", "libstdc++6"], "arm64"), made / "root")
        print("2 of 3: QEMU")
        put_qemu(Path(name), made)
        print("3 of 3: packages")
        install_packages(made / "root")
        (made / "bin").mkdir()
        (made / "bin" / "python").write_text(PYTHON, encoding="utf-8")
        (made / "bin" / "python").chmod(0o755)
        (made / "ready").touch()
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(made, folder)
    if link.is_symlink() or not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(folder)
    print(f"wrote {folder}\nnext: python arm/arm_test.py runs/demo/export/model_int8.tflite")
    return 0


# ------------------------------------------------------------------------------------------------------------- Debian


def fetch(work: Path, packages: list[str], architecture: str, sources: str = "", suite: str = "") -> list[Path]:
    """Downloads packages with all that they need, without root and without a trace in this computer's own apt.

    Args:
        work: an empty folder, or one that this function has used.
        packages: names.
        architecture: 'arm64', ...
        sources: a .sources file beside those of this computer.
        suite: of Debian, to prefer.
    """
    state = Path(tempfile.mkdtemp(dir=work, prefix="apt-"))
    for name in ("lists/partial", "cache/archives/partial"):
        (state / name).mkdir(parents=True)
    (state / "status").touch()
    settings = {
        "APT::Architecture": architecture, "APT::Architectures": architecture, "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "", "Dir::State": state, "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
    }  # fmt: skip
    if sources:
        parts = state / "parts"
        parts.mkdir()
        (parts / "more.sources").write_text(sources, encoding="utf-8")
        settings |= {"Dir::Etc::sourcelist": "/dev/null", "Dir::Etc::sourceparts": parts}
    config = state / "apt.conf"
    config.write_text("".join(f'{key} "{value}";\n' for key, value in settings.items()), encoding="utf-8")
    chosen = ["-t", suite] if suite else []
    for words in (["update"], [*chosen, "install", "--yes", "--download-only", *packages]):
        call(["apt-get", *words], f"apt-get cannot fetch {' and '.join(packages)} for {architecture}", config)
    return sorted((state / "cache" / "archives").glob("*.deb"))


def unpack(archives: list[Path], folder: Path) -> None:
    """Unpacks packages of Debian into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        call(["dpkg-deb", "-x", str(archive), str(folder)], f"dpkg-deb cannot unpack {archive.name}")


def put_qemu(work: Path, folder: Path) -> None:
    """Puts a QEMU that is new enough into `folder`: this computer's, else that of Debian's backports, else Debian's."""
    here = shutil.which(QEMU)
    if here and qemu_version(Path(here)) >= OLDEST_QEMU:
        (folder / QEMU).symlink_to(here)
        return
    native = call(["dpkg", "--print-architecture"], "dpkg does not report the architecture").strip()
    release = Path("/etc/os-release")
    described = release.read_text(encoding="utf-8") if release.is_file() else ""
    backports, suite = backports_of(Path("/etc/apt"), described)
    for number, (sources, chosen) in enumerate([(backports, suite), ("", "")] if backports else [("", "")]):
        unpack(fetch(work, ["qemu-user"], native, sources, chosen), work / f"qemu{number}")
        found = work / f"qemu{number}" / "usr" / "bin" / QEMU
        if found.is_file() and qemu_version(found) >= OLDEST_QEMU:
            shutil.copy2(found, folder / QEMU)
            return
    oldest = ".".join(map(str, OLDEST_QEMU))
    raise FaceError(
        f"The emulation needs QEMU {oldest} or later. This system has an older version: put a newer {QEMU} on PATH."
    )


def qemu_version(program: Path) -> tuple[int, ...]:
    """(10, 0) of QEMU 10.0.2; (0, 0) of one that does not run here because a library is missing."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, errors="replace")
    found = re.search(r"version (\d+)\.(\d+)", done.stdout)
    return tuple(map(int, found.groups())) if found else (0, 0)


def backports_of(etc: Path, release: str) -> tuple[str, str]:
    """(a .sources text with the backports of this Debian beside it, name of that suite); empty where it has none.

    Args:
        etc: /etc/apt. Its files with deb822 stanzas are read.
        release: text of /etc/os-release.
    """
    name = re.search(r"^VERSION_CODENAME=(\w+)", release, re.MULTILINE)
    if not name or "ID=debian" not in release:
        return "", ""
    suite = f"{name[1]}-backports"
    for path in sorted((etc / "sources.list.d").glob("*.sources")):
        text = path.read_text(encoding="utf-8")
        changed = re.sub(rf"^(Suites:.*\b{name[1]}) .*$", rf"\1 {suite}", text, count=1, flags=re.MULTILINE)
        if changed != text:
            return changed, suite
    return "", ""


# ------------------------------------------------------------------------------------------------------------ Python


def install_packages(root: Path) -> None:
    """Installs requirements-board.txt and ONNX Runtime, built for arm64, where the Python in `root` looks."""
    version = re.sub(r"^python", "", os.readlink(root / "usr" / "bin" / "python3"))
    libc = next(root.glob("usr/lib/aarch64-linux-gnu/libc.so.6"), None) or next(root.glob("lib/*/libc.so.6"))
    newest = max(int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", libc.read_bytes()))
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in range(17, newest + 1)] + ["manylinux2014_aarch64"]
    pinned = (scripts_folder() / "requirements.txt").read_text(encoding="utf-8")
    onnx = re.search(r"^onnxruntime==\S+", pinned, re.MULTILINE)
    call(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
            "--target", str(root / "usr" / "lib" / "python3" / "dist-packages"), "--python-version", version,
            "--implementation", "cp", "--only-binary=:all:", *(f"--platform={each}" for each in platforms),
            "-r", str(scripts_folder() / "requirements-board.txt"), onnx[0] if onnx else "onnxruntime",
        ],
        "pip cannot install requirements-board.txt for arm64",
    )  # fmt: skip


def call(words: list[str], refused: str, apt_config: Path | None = None) -> str:
    """Runs a program; returns what it printed.

    Raises:
        FaceError: it failed; with the last line that it printed.
    """
    env = os.environ | ({"APT_CONFIG": str(apt_config), "LC_ALL": "C"} if apt_config else {})
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", env=env)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise FaceError(f"{refused} ({lines[-1][:200]}). Check the network and run the command again.")
    return done.stdout


if __name__ == "__main__":
    run_cli(main)

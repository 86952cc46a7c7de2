"""The command `mobilearc`, and what `pip install .` installs."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from facelib import __main__ as command
from facelib import __version__
from facelib.__main__ import FOLDERS

ROOT = Path(__file__).parents[2]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def mobilearc(*words, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "facelib", *words], cwd=cwd, capture_output=True, text=True, timeout=60
    )


def test_the_command_alone_lists_every_script_with_its_first_line():
    done = mobilearc()

    assert done.returncode == 0
    assert "  train              Train an embedder" in done.stdout
    assert "  clean_data         Clean a training set" in done.stdout
    assert "  pb_2_om            Convert a graph for Ascend." in done.stdout
    assert not {"dataset", "backbones", "face_loss_k", "nncase_worker", "demo"} & command.commands().keys()


@pytest.mark.parametrize("words", [("--version",), ("train", "--version"), ("pb_2_om", "--version")], ids=" ".join)
def test_the_version_stands_in_one_place(words):
    assert mobilearc(*words).stdout == f"mobilearc {__version__}\n"


def test_the_exit_code_and_the_message_are_those_of_the_script():
    done = mobilearc("h5_2_pb", "nope.h5")

    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "nope.h5" in done.stderr


def test_an_unknown_command_names_the_nearest():
    done = mobilearc("trian")

    assert done.returncode == 1
    assert done.stderr == (
        "error: mobilearc has no command 'trian'. Did you mean train? "
        "To list all commands, run mobilearc without a command.\n"
    )


def test_recipes_and_scripts_of_the_package_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").touch()

    words = command.with_paths(["-n", "2", "train.py", "recipes/toy.toml", "mine.toml", "absent.toml"])

    assert words == ["-n", "2", str(ROOT / "train.py"), str(ROOT / "recipes/toy.toml"), "mine.toml", "absent.toml"]


def test_every_package_of_facelib_is_installed():
    rooms = {p.parent.relative_to(ROOT).as_posix().replace("/", ".") for p in ROOT.glob("facelib/**/__init__.py")}

    assert {name for name in SETUPTOOLS["packages"] if name.startswith("facelib")} == rooms


def test_every_other_file_of_the_packages_is_installed():
    folders = {name: SETUPTOOLS["package-dir"].get(name, name.replace(".", "/")) for name in SETUPTOOLS["packages"]}
    data = SETUPTOOLS["package-data"]
    installed = {
        path
        for name, folder in folders.items()
        for pattern in [*data["*"], *data.get(name, []), "*.py"]
        for path in (ROOT / folder).glob(pattern)
    }
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    wanted = {
        ROOT / name
        for name in listed
        if name.startswith(("facelib/", "recipes/", *(f"{folder}/" for folder in FOLDERS[1:])))
    }

    assert wanted <= installed, sorted(wanted - installed)

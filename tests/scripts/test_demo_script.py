"""demo.sh runs with a folder of any name, and the lines that it prints can be copied into a shell."""

import os
import shlex
import shutil
import subprocess

import pytest

import prepare_data
from facelib.cli import HINTS, next_step, print_next
from tests.helpers.checkout import ROOT


@pytest.mark.parametrize("name", ["my faces", "it's $(touch hacked); *", "plain"])
def test_a_folder_of_any_name_is_one_word(tmp_path, name):
    shutil.copy(ROOT / "demo.sh", tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / name).mkdir()
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\nfor word; do printf "<%s>" "$word"; done >> said; echo "$MOBILEARC_HINTS" >> said\n')
    python.chmod(0o755)

    done = subprocess.run(["./demo.sh"], cwd=tmp_path, env={**os.environ, "DATA": name}, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    ran = (tmp_path / "said").read_text(encoding="utf-8").splitlines()
    assert ran[0] == f"<prepare_data.py><{name}><demo_out/{name}/data>off" and len(ran) == 3
    printed = [shlex.split(line[2:]) for line in done.stdout.splitlines() if line.startswith("$ ")]
    assert ["<" + "><".join(words[1:]) + ">off" for words in printed] == ran
    assert not (tmp_path / "hacked").exists()


def test_hints_are_quoted_and_silent_in_other_scripts(monkeypatch, capsys):
    monkeypatch.delenv(HINTS, raising=False)
    assert next_step("python", "x.py", "my faces") == "; next: python x.py 'my faces'"
    print_next("python", "x.py", "a;b")
    monkeypatch.setenv(HINTS, "off")
    print_next("python", "x.py")
    assert next_step("python") == "" and capsys.readouterr().out == "next: python x.py 'a;b'\n"


def test_the_next_command_names_the_sets_beside_the_source(tmp_path):
    assert str(prepare_data.valid_of(tmp_path)) == "valid_dataset"
    (tmp_path / "lfw.bin").write_bytes(b"x")
    assert prepare_data.valid_of(tmp_path) == tmp_path == prepare_data.valid_of(tmp_path / "train.rec")

"""The commands of README.md, run in their order as a newcomer would, only on fewer faces."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALLER = {"--identities": "20", "--images": "4", "--num-pairs": "240"}
SHORTER = ["--set", "stage.0.epochs=1", "--set", "model.width=0.25", "--set", "data.batch_size=20"]


def commands(readme: str) -> list[str]:
    """Every line of the README's `sh` blocks, without comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / readme).read_text(), re.DOTALL | re.MULTILINE)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def shrink(words: list[str]) -> list[str]:
    """The same command on fewer faces."""
    words = [SMALLER.get(before, word) for before, word in zip(["", *words], words, strict=False)]
    return words + SHORTER if words[1] == "train.py" else words


def test_the_commands_run_in_their_order(tmp_path):
    for entry in ROOT.iterdir():
        if not entry.name.startswith((".", "demo_out", "runs")):
            (tmp_path / entry.name).symlink_to(entry)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # optimize_pb.sh takes python3 where there is no .venv
    ran, printed = [], {}
    for line in commands("README.md"):
        if line.startswith("make "):
            continue
        words = shrink(shlex.split(line))
        words[0] = {"python": sys.executable}.get(words[0], words[0])

        result = subprocess.run(
            words, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=400
        )

        assert result.returncode == 0, f"{line}\n{result.stdout}\n{result.stderr}"
        assert "Traceback" not in result.stderr, f"{line}\n{result.stderr}"
        ran.append(line)
        printed[words[1]] = result.stdout
    assert len(ran) > 15
    assert (tmp_path / "runs" / "toy" / "report.html").stat().st_size > 50_000
    table = printed["report.py"]
    for stage in ("embedder.h5", "frozen.pb", "optimized.pb", "model_float.tflite", "model_int8.tflite"):
        assert stage in table


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_every_file_that_is_linked_exists(readme):
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / readme).read_text()):
        assert (ROOT / target).exists(), target


def test_the_chinese_readme_has_the_same_commands():
    assert commands("README.zh-CN.md") == commands("README.md")

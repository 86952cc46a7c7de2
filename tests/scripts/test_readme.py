"""The commands of README.md and of the pages in docs/, run in order as a newcomer would, on fewer faces."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.checkout import ROOT, TRACKED, link_tracked_files

SMALLER = {"--identities": "20", "--images": "4", "--num-pairs": "240"}
SHORTER = ["--set", "stage.0.epochs=1", "--set", "model.width=0.25", "--set", "data.batch_size=20"]
PAGES = [name for name in TRACKED if name.endswith(".md") and name != "CHANGELOG.md"]
needs_git = pytest.mark.skipif(not TRACKED, reason="not a git checkout")


def pages_in_order() -> list[str]:
    """README.md, then the pages of the site as its contents list them; API and translations hold no commands."""
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    pages = re.findall(r": (\S+\.md)$", nav, re.MULTILINE)
    return ["README.md", *(f"docs/{page}" for page in pages if not page.startswith(("api/", "zh/")))]


def commands(page: str) -> list[str]:
    """Every line of the page's `sh` blocks, without comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def shrink(words: list[str]) -> list[str]:
    """The same command on fewer faces."""
    words = [SMALLER.get(before, word) for before, word in zip(["", *words], words, strict=False)]
    return words + SHORTER if words[1] == "train.py" else words


@pytest.mark.slow
@needs_git
def test_the_commands_run_in_their_order(tmp_path):
    link_tracked_files(tmp_path)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # optimize_pb.sh takes python3 where there is no .venv
    ran, printed = [], {}
    for page in pages_in_order():
        for line in commands(page):
            if line.startswith("make "):
                continue
            words = shrink(shlex.split(line))
            words[0] = {"python": sys.executable}.get(words[0], words[0])

            result = subprocess.run(
                words, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=900
            )

            assert result.returncode == 0, f"{page}: {line}\n{result.stdout}\n{result.stderr}"
            assert "Traceback" not in result.stderr, f"{page}: {line}\n{result.stderr}"
            ran.append(line)
            printed[words[1]] = result.stdout
    assert len(ran) > 25
    assert (tmp_path / "runs" / "toy" / "report.html").stat().st_size > 50_000
    table = printed["report.py"]
    for stage in ("embedder.h5", "frozen.pb", "optimized.pb", "model_float.tflite", "model_int8.tflite"):
        assert stage in table


@needs_git
def test_every_page_is_in_the_contents_of_the_site():
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]

    assert [name for name in PAGES if name.startswith("docs/") and name.removeprefix("docs/") not in nav] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_linked_exists(page):
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("page", [name for name in PAGES if name.startswith("docs/api/")])
def test_every_module_of_the_api_pages_exists(page):
    for module in re.findall(r"^::: (\S+)", (ROOT / page).read_text(), re.MULTILINE):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), module

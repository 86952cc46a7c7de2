"""The project's words: retired ones are in no name of the code, and retired phrases in no text."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from facelib.__main__ import FOLDERS

ROOT = Path(__file__).parents[1]
# What stands for each: margin_share, target, shared, copy, rendezvous, synthetic faces.
RETIRED = {"warmth", "own", "alike", "twin", "twins", "meeting", "joining", "toy", "toys"}
# Names that keep such a word, and why.
KEPT = {
    "TOY_RECIPE": "recipes/toy.toml",
    "TOY_TRAIN": "the faces of recipes/toy.toml",
    "TOY_VALID": "the faces of recipes/toy.toml",
    "TOY_PAIRS": "the faces of recipes/toy.toml",
    "toy_valid": "toy.bin, beside the faces of recipes/toy.toml",
    "draw_toy_data": "runs/toy_data",
}
PHRASES = (
    "names tensorflow.", "names keras.", "no tensorflow.", "in other words", "said in another way", "toy people",
    "toy faces", "drawn faces", "begin anew", "was taken over", "what looks finished", "for want of",
)  # fmt: skip

CODE = [
    path
    for folder in ("facelib/**", *FOLDERS)
    for path in sorted(ROOT.glob(f"{folder}/*.py"))
    if ".venv" not in path.parts
]
TEXTS = [*CODE, *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("recipes/*.toml")),
         *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile", "demo.sh"))]  # fmt: skip


def named(path):
    return path.relative_to(ROOT).as_posix()


def per_file(paths):
    return pytest.mark.parametrize("path", paths, ids=named)


def identifiers(path):
    """Every name that a file defines or uses, and the name of its module."""
    names = {path.stem}
    for node in ast.walk(ast.parse(path.read_text())):
        for field in ("id", "attr", "arg", "name", "asname"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                names.add(value.rpartition(".")[2])
    return names


def words(name):
    """The words of a snake_case or CamelCase name, in lower case."""
    return set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])([A-Z])", r"_\1", name).lower()))


@per_file(CODE)
def test_no_name_has_a_retired_word(path):
    found = sorted(name for name in identifiers(path) - KEPT.keys() if words(name) & RETIRED)

    assert not found, f"{named(path)}: {found}"


@per_file(TEXTS)
def test_no_text_has_a_retired_phrase(path):
    text = " ".join(path.read_text().lower().split())

    assert not [phrase for phrase in PHRASES if phrase in text]


def test_every_exception_is_still_needed():
    assert set().union(*map(identifiers, CODE)) >= KEPT.keys()


def test_the_words_of_a_name_are_found():
    assert words("is_own") == {"is", "own"} and words("ToyFaces") == {"toy", "faces"} and words("known") == {"known"}
    listed = subprocess.run(["git", "ls-files", "facelib/*.py"], cwd=ROOT, capture_output=True, text=True).stdout
    assert not listed or {ROOT / name for name in listed.split()} <= set(CODE)

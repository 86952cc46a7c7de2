"""Lists, recipes and settings of other systems are read as they were meant, and every text file names its encoding."""

import ast
import gzip
import os
import subprocess
import sys
import unicodedata

import cv2
import numpy as np
import pytest

import make_bin
import prepare_data
from facelib.data.readers.folder_source import ListSource
from facelib.data.readers.sources import open_source
from facelib.data.verification.listed_pairs import find_shot, read_pairs_txt
from facelib.errors import BadRecord, FaceError
from facelib.evaluation.attributes import group_faces, read_attributes
from facelib.evaluation.verification_sets import find_sets
from facelib.files import read_json, write_bytes
from facelib.training.recipe.toml import load_recipe
from tests.helpers.checkout import ROOT

PICTURE = cv2.imencode(".png", np.full((112, 112, 3), 99, np.uint8))[1].tobytes()
NAMES = ("张三", "José")


@pytest.fixture
def faces(tmp_path):
    for name in NAMES:
        for k in (1, 2):
            write_bytes(tmp_path / "faces" / name / f"{name}_{k:04d}.png", PICTURE)
    return tmp_path


def every(source):
    return [source.read(i) for i in range(len(source))]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
@pytest.mark.parametrize("line", ["{k};{file}", "{k}\t{k}.000000\t{file}", "1\t{file}\t{k}", "{k};{windows}"])
def test_a_list_is_read_in_any_encoding_and_form(faces, encoding, line):
    files = [f"faces/{name}/{name}_0001.png" for name in NAMES]
    text = "".join(
        line.format(k=k, file=file, windows=file.replace("/", "\\")) + "\r\n" for k, file in enumerate(files)
    )
    (faces / "list.lst").write_bytes(text.encode(encoding))
    source = open_source(faces / "list.lst")
    assert every(source) == [PICTURE, PICTURE] and source.labels.tolist() == [0, 1]
    assert [f"'{faces}/list.lst' is not UTF-8, so it was read as gb18030"] * (encoding == "gb18030") == source.notes


def test_a_table_with_a_head_is_a_list(faces):
    (faces / "list.csv").write_text(f"path,label\nfaces/{NAMES[0]}/{NAMES[0]}_0002.png,7\n", encoding="utf-8")
    assert every(open_source(faces / "list.csv")) == [PICTURE]


def test_a_list_that_names_files_by_their_bytes_keeps_them(tmp_path):
    name = "张三.png".encode("gb18030")
    write_bytes(tmp_path / os.fsdecode(name), PICTURE)
    (tmp_path / "list.txt").write_bytes(b"0;" + name)
    source = ListSource(tmp_path / "list.txt")
    assert every(source) == [PICTURE] and source.notes == []


def test_a_name_that_no_file_can_have_is_a_bad_record(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"0;" + b"\xce\xff" * 200 + b".jpg\n")

    source = ListSource(tmp_path / "list.txt")

    with pytest.raises(BadRecord):
        source.read(0)


@pytest.mark.parametrize("listed, there", [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_are_found_however_they_are_stored(tmp_path, listed, there):
    stored, said = (unicodedata.normalize(form, "José") for form in (there, listed))
    write_bytes(tmp_path / stored / f"{stored}_0001.png", PICTURE)
    (tmp_path / "list.txt").write_text(f"0;{said}/{said}_0001.png", encoding="utf-8")
    (tmp_path / "pairs.txt").write_text(f"{said}\t1\t1", encoding="utf-8")
    (tmp_path / "groups.csv").write_text(f"{said},m", encoding="utf-8")
    assert every(ListSource(tmp_path / "list.txt")) == [PICTURE]
    shot = read_pairs_txt(tmp_path / "pairs.txt")[0][0][0]
    assert find_shot(tmp_path, shot).read_bytes() == PICTURE
    assert group_faces(read_attributes(tmp_path / "groups.csv"), ["0"], [stored], "x").tolist() == ["m"]


def test_a_drive_letter_is_named(tmp_path):
    (tmp_path / "list.txt").write_text("0;C:\\faces\\a.jpg", encoding="utf-8")
    with pytest.raises(BadRecord, match="a Windows path: write the path relative to the folder of the list"):
        ListSource(tmp_path / "list.txt").read(0)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "gb18030"])
def test_pairs_are_read_in_any_encoding(faces, encoding):
    text = f"1\t1\r\n{NAMES[0]}\t1\t2\r\n{NAMES[0]}\t1\t{NAMES[1]}\t1\r\n"
    (faces / "pairs.txt").write_bytes(text.encode(encoding))
    pairs, is_same, notes = read_pairs_txt(faces / "pairs.txt")
    assert pairs[1] == ((NAMES[0], 1), (NAMES[1], 1)) and is_same.tolist() == [True, False]
    assert len(notes) == (encoding == "gb18030")


def test_a_gbk_list_whose_bytes_are_utf8_too_is_read_as_said(tmp_path, capsys):
    name = "模"  # C4 A3 in GBK, which is one letter in UTF-8
    for k in (1, 2):
        write_bytes(tmp_path / name / f"{name}_{k:04d}.png", PICTURE)
        write_bytes(tmp_path / "b" / f"b_{k:04d}.png", PICTURE)
    faces, pairs, groups = (tmp_path / file for file in ("list.txt", "pairs.txt", "groups.csv"))
    faces.write_bytes(f"0;{name}/{name}_0001.png\n1;b/b_0001.png".encode("gbk"))
    pairs.write_bytes(f"{name}\t1\t2\n{name}\t1\tb\t1\n".encode("gbk"))
    groups.write_bytes(f"{name},x\n".encode("gbk"))

    with pytest.raises(FaceError):
        prepare_data.main([str(faces), str(tmp_path / "data")])
    assert prepare_data.main([str(faces), str(tmp_path / "data"), "--encoding", "gbk"]) == 0
    assert make_bin.main([str(tmp_path), str(tmp_path / "x.bin"), "--pairs", str(pairs), "--encoding", "GBK"]) == 0
    assert find_sets(tmp_path, pairs, encoding="gbk")[0]().identities[0] == name
    assert read_attributes(groups, "gbk") == {name: "x"}
    assert "note" not in capsys.readouterr().out.replace("note: 1 image", "")
    for wrong in ("no-such", "utf-8", "ascii"):
        faces.write_bytes(b"0;\xff.png")
        with pytest.raises(FaceError, match=f"The list of faces .* does not have the encoding {wrong}"):
            open_source(faces, encoding=wrong)


@pytest.mark.parametrize("read", [lambda path: open_source(path).read(0), read_pairs_txt, read_attributes])
def test_gzip_is_named_with_the_way(tmp_path, read):
    (tmp_path / "list.txt").write_bytes(gzip.compress(b"0;a.jpg"))
    with pytest.raises(FaceError, match=r"gzip.*gunzip"):
        read(tmp_path / "list.txt")


def test_a_byte_order_mark_is_not_content(tmp_path):
    (tmp_path / "r.toml").write_text((ROOT / "recipes" / "toy.toml").read_text(encoding="utf-8"), encoding="utf-8-sig")
    (tmp_path / "x.json").write_text('{"a": 1}', encoding="utf-8-sig")
    assert load_recipe(tmp_path / "r.toml") == load_recipe(ROOT / "recipes" / "toy.toml")
    assert read_json(tmp_path / "x.json", "sidecar") == {"a": 1}


def test_names_are_utf8_in_a_locale_that_is_not(tmp_path):
    for k, name in enumerate(NAMES):
        write_bytes(tmp_path / "faces" / name / f"{k}.png", PICTURE)
    variables = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    argv = [sys.executable, "prepare_data.py", "inspect", str(tmp_path / "faces")]
    done = subprocess.run(argv, cwd=ROOT, env={**os.environ, **variables}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert b"2 images, 2 identities" in done.stdout


def test_every_text_file_is_opened_with_its_encoding():
    """Else Python takes the locale's: a recipe in Chinese would not be read where that is GBK."""
    missing = []
    ours = [path for path in ROOT.rglob("*.py") if not path.relative_to(ROOT).parts[0].startswith((".venv", "tests"))]
    for path in [path for path in ours if ".venv" not in path.parts]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _is_text_without_encoding(node):
                missing.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)[:70]}")
    assert not missing, "\n".join(missing)


def _is_text_without_encoding(call):
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if any(keyword.arg in ("encoding", None) for keyword in call.keywords):
        return False
    if name == "read_text":
        return not call.args
    if name == "write_text":
        return len(call.args) < 2
    modes = [*call.args[1:2], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    is_binary = any("b" in str(getattr(mode, "value", "b")) for mode in modes)
    return name == "open" and isinstance(call.func, ast.Name) and not is_binary

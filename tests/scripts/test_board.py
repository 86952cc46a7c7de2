"""The small installation for boards, also where no module of POSIX is: what runs, and the line that names the rest."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import cv2
import pytest

from facelib.__main__ import FOLDERS
from facelib.data.synthetic.files import SyntheticSet, write_folders, write_pairs
from facelib.evaluation.results import read_report
from facelib.extras import PACKAGES, require, say_missing
from facelib.model_input import Io
from facelib.sidecar import write_sidecar
from tests.helpers import blocked
from tests.helpers.film import read_video, write_video
from tests.helpers.patches_onnx import write_model
from tests.helpers.placed_faces import synthetic_photo

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PYPROJECT["optional-dependencies"]
BEYOND = sorted({name for name, (_, extra) in PACKAGES.items() if extra not in ("", "board")} | {
    "mlflow", "PIL", "s3fs", "sklearn", "torch", "wandb"})  # fmt: skip
FED = ("--input", "", "--crop", "192,192", "--fit", "resize", "--pixels", "unit", "--output", "points")
SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (*FOLDERS, "docs/demo")
    for path in (ROOT / folder).glob("*.py")
    if "\n    run_cli(" in path.read_text()
)
MODULES = ("facelib/export/optimize.py", "facelib/export/om/om_eval.py", "facelib/export/om/pb_2_om.py")  # of the .sh
# What Linux has and other systems do not: macOS lacks some, Windows all.
POSIX = ("fcntl", "grp", "posix_ipc", "pty", "pwd", "resource", "syslog", "termios", "tty")
REMOVED = ("os.O_DIRECTORY", "os.O_NOFOLLOW", "os.O_NONBLOCK", "os.O_CLOEXEC", "os.sched_getaffinity", "os.tcgetpgrp",
           "os.posix_fallocate", "os.posix_fadvise", "signal.SIGHUP", "signal.pthread_sigmask",
           "_signal.pthread_sigmask")  # fmt: skip
LINUX = ("facelib.distributed.private_network", "facelib.distributed.worker_processes")  # of launch.py


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with faces, photos, a verification set and models: .tflite and .onnx work, .h5 and .pb need TensorFlow.

    The .tflite is the network of the detector that places five points: ten values of a face are an embedding too.
    """
    folder = tmp_path_factory.mktemp("board")
    write_folders(folder / "faces", SyntheticSet(22, 3, seed=5))
    write_pairs(folder / "toy.bin", SyntheticSet(40, 3, seed=6), 240)
    shutil.copy(ROOT / "facelib/alignment/weights/face_points.tflite", folder / "net.tflite")
    write_model(folder / "net.onnx")
    for name in ("net.h5", "net.pb"):
        (folder / name).write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
        write_sidecar(folder / name, kind=name[4:], made_from=None, io=Io())
    shutil.copy(folder / "net.tflite", folder / "made.tflite")
    fed = Io(size=(192, 192), fit="resize", pixels="unit", output="points")
    write_sidecar(folder / "made.tflite", kind="tflite_float", made_from=folder / "net.pb", io=fed)
    for identity in (0, 3):
        (folder / "photos" / f"p{identity}").mkdir(parents=True)
        photo = synthetic_photo(identity, 5, 1.4)[0]
        cv2.imwrite(str(folder / "photos" / f"p{identity}" / "1.jpg"), photo[:, :, ::-1])
    write_video(folder / "film.mp4", [synthetic_photo(3, 0, 0.8, (120, 160))[0]] * 4)
    return folder


def board_commands():
    a, b = "faces/0001/0001.jpg", "faces/0001/0002.jpg"
    return [
        ["make_bin.py", "faces", "made.bin", "--num-pairs", "40"],
        ["prepare_data.py", "inspect", "faces", "--sheet", "sheet.png"],
        ["prepare_data.py", "inspect", "toy.bin"],
        ["prepare_data.py", "faces", "data"],
        ["prepare_data.py", "inspect", "data"],
        ["tflite_test.py", "net.tflite", "--valid", "toy.bin", "--far", "0.01", *FED],
        ["tflite_test.py", "net.tflite", "--valid", "toy.bin", "--far", "0.01", "--against", "net.tflite.report.json"],
        ["tflite_test.py", "made.tflite", "--valid", "toy.bin", "--far", "0.01"],  # from a .pb that nothing here runs
        ["predict.py", a, b, "--model", "net.tflite", "--far", "0.01"],
        ["predict.py", "photos/p0/1.jpg", "photos/p3/1.jpg", "--model", "net.tflite", "--threshold", "0.5"],
        ["predict.py", "enroll", "faces", "people.npy", "--model", "net.tflite", "--far", "0.01"],
        ["predict.py", "search", b, "people.npy", "--threshold", "2"],
        ["predict.py", "search", "photos/p0/1.jpg", "people.npy"],
        ["predict.py", "watch", "film.mp4", "people.npy", "--threshold", "4", "--out", "seen.mp4"],
        ["align_faces.py", "photos", "crops", "--workers", "1"],
    ]


def more_commands():
    """A command for each script that needs more than the board has, with the extra that it must name."""
    sets = ["--valid", "toy.bin"]
    return [
        (["predict.py", "faces/0001/0001.jpg", "faces/0001/0002.jpg", "--model", "net.tflite", "--threshold", "1",
          "--out", "pair.png", *FED], "plots"),
        (["predict.py", "photos/p0/1.jpg", "photos/p3/1.jpg", "--model", "net.h5", "--threshold", "1"], "train"),
        (["predict.py", "photos/p0/1.jpg", "photos/p3/1.jpg", "--model", "net.pb", "--threshold", "1"], "train"),
        (["onnx_test.py", "net.onnx", *sets, "--layout", "nchw"], "onnx"),
        (["pb_test.py", "net.pb", *sets], "train"),
        (["evaluate_data.py", "net.h5", *sets], "train"),
        (["h5_2_pb.py", "net.h5"], "train"),
        (["facelib/export/optimize.py", "net.pb"], "train"),
        (["pb_2_tflite.py", "net.pb", "--mode", "float"], "train"),
        (["pb_2_onnx.py", "net.pb"], "train|onnx"),
        (["import_onnx.py", "net.onnx", "new.h5"], "train|onnx"),
        (["import_model.py", "net.h5", "new.h5"], "train"),
        (["train.py", str(ROOT / "recipes/toy.toml"), "--data", "data", *sets, "--out", "run"], "train"),
        (["tools/doctor.py", str(ROOT / "recipes/toy.toml"), "--data", "data"], "train"),
        (["tools/clean_data.py", "data", "cleaned", "--model", "net.tflite", "--merge-angle", "5"], "data"),
        (["report.py", "net.tflite.report.json", "--out", "page.html"], "plots"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def on_a_board(place):
    """What every command of this file does where only the board's packages are: {command line: result}.

    The modules of POSIX (fcntl, resource, pwd, termios, ...) are not there either.
    """
    helps = [[script, "--help"] for script in (*SCRIPTS, *MODULES) if script != "launch.py"]
    commands = [*board_commands(), *(words for words, _ in more_commands()), *helps]
    results = blocked.run([*BEYOND, *POSIX], commands, place, REMOVED)
    return {" ".join(result["words"]): result for result in results}


@pytest.mark.parametrize("words", board_commands(), ids=" ".join)
def test_a_script_of_the_board_does_its_work(on_a_board, words):
    result = on_a_board[" ".join(words)]

    assert (result["code"], result["traceback"]) == (0, ""), result["err"]


def test_the_board_writes_what_a_whole_installation_writes(on_a_board, place):
    outs = {words: result["out"] for words, result in on_a_board.items()}

    assert read_report(place / "net.tflite.report.json")["sets"]["toy"]["pairs"] == 240
    assert "no worse than net.tflite.report.json" in " ".join(outs.values())
    assert ": distance" in outs["predict.py search faces/0001/0002.jpg people.npy --threshold 2"]
    assert sorted(path.name for path in (place / "crops").rglob("*.jpg")) == ["1.jpg", "1.jpg"]
    assert cv2.imread(str(place / "sheet.png")) is not None
    assert '"frames": 4' in outs["predict.py watch film.mp4 people.npy --threshold 4 --out seen.mp4"]
    assert len(read_video(place / "seen.mp4")) == 4


@pytest.mark.parametrize(("words", "extra"), more_commands(), ids=lambda value: None if value is str else value[0])
def test_what_needs_more_names_the_extra_in_one_line(on_a_board, words, extra):
    result = on_a_board[" ".join(words)]

    assert (result["code"], result["traceback"]) == (1, ""), result
    assert result["err"].count("\n") == 1, result["err"]
    line = (
        rf'^error: .* not installed\. Install it: pip install "mobilearc\[({extra})\]", or in a checkout pip install '
    )
    assert re.match(line, result["err"]), result["err"]


def test_the_board_with_onnx_tests_onnx_models(on_a_board, place):
    a, b = "faces/0001/0001.jpg", "faces/0001/0002.jpg"
    commands = [
        ["onnx_test.py", "net.onnx", "--valid", "toy.bin", "--far", "0.01", "--layout", "nchw"],
        ["predict.py", a, b, "--model", "net.onnx", "--threshold", "1"],
    ]

    results = blocked.run([name for name in BEYOND if not name.startswith("onnx")], commands, place)

    assert [result for result in results if result["code"] or result["traceback"]] == []


def test_help_needs_nothing_more(on_a_board):
    results = [result for words, result in on_a_board.items() if words.endswith("--help")]

    assert len(results) == len(SCRIPTS) + len(MODULES) - 1
    assert [result for result in results if result["code"] or result["traceback"]] == []


def test_a_command_that_is_refused_leaves_nothing(on_a_board, place):
    assert not [name for name in ("pair.png", "run", "cleaned", "new.h5") if (place / name).exists()]
    assert not list(place.rglob("*.part"))


def test_every_extra_is_the_one_of_pyproject():
    def package(requirement):
        return re.split(r"[\[<>=]", requirement)[0]

    listed = {package(each): "" for each in PYPROJECT["dependencies"]}
    for extra in ("board", "data", "onnx", "plots", "train"):
        listed |= {package(each): extra for each in EXTRAS[extra] if not each.startswith("mobilearc")}
    assert dict(PACKAGES.values()) == listed


def test_the_pins_of_the_board_are_those_of_all():
    pins = {name: (ROOT / name).read_text().splitlines() for name in ("requirements.txt", "requirements-board.txt")}
    board = {line for line in pins["requirements-board.txt"] if not line.startswith("#")}

    assert board <= set(pins["requirements.txt"])
    assert {line.split("==")[0] for line in board} == {
        re.split("[<>=]", each)[0] for each in (*PYPROJECT["dependencies"], *EXTRAS["board"])
    } - {"protobuf"}  # LiteRT brings it


def test_a_missing_package_is_named_before_the_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(Exception, match=r'jinja2, which is not installed.*"mobilearc\[plots\]"'):
        require("jinja2")

    assert say_missing("matplotlib.figure") == say_missing("matplotlib")
    assert say_missing("my_module") is None and say_missing(None) is None
    require("numpy", "tqdm")


@pytest.mark.slow
def test_every_module_and_a_training_run_where_no_module_of_posix_is(place, tmp_path):
    shutil.copytree(place, tmp_path / "place")
    names = sorted(path.relative_to(ROOT).with_suffix("").as_posix() for path in ROOT.glob("facelib/**/[!_]*.py"))
    imports = [["import", name] for each in names if (name := each.replace("/", ".")) not in LINUX]
    recipe, faces = str(ROOT / "recipes/toy.toml"), ["--data", "data", "--valid", "toy.bin"]
    commands = [
        ["prepare_data.py", "faces", "data"],
        ["train.py", recipe, *faces, "--out", "run", "--set", "stage.0.epochs=1"],
        ["h5_2_pb.py", "run/embedder.h5"],
        ["train.py", recipe, *faces, "--out", "dry", "--dry-run"],
    ]

    results = blocked.run(POSIX, [*imports, *commands], tmp_path / "place", REMOVED, timeout=1800)

    assert [result for result in results if result["code"] or result["traceback"]] == []


@pytest.mark.slow
@pytest.mark.parametrize("module", sorted(name for name, (_, extra) in PACKAGES.items() if extra))
def test_one_missing_package_is_never_a_traceback(module, place, tmp_path):
    shutil.copytree(place, tmp_path / "place")
    more = [words + ["--steps", "1"] * (words[0] == "train.py") for words, _ in more_commands()]
    helps = [[script, "--help"] for script in (*SCRIPTS, *MODULES)]

    results = blocked.run([module], [*helps, *board_commands(), *more], tmp_path / "place", timeout=1800)

    assert [result for result in results if result["traceback"]] == []
    for result in results:
        assert result["code"] in (0, 1) and (result["code"] == 0 or result["err"].startswith("error: ")), result
    assert all(result["code"] == 0 for result in results[: len(helps)])


@pytest.mark.slow
def test_a_fresh_environment_with_the_extra_runs_the_board_commands(tmp_path, place):
    """pip install .[board] alone: the packages, the size and the work. Needs a package index."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    packed = tmp_path / "source"
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for name in filter(None, names):
        (packed / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, packed / name)
    subprocess.run([python, "-m", "pip", "install", "-q", f"{packed}[board]"], check=True)
    listed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    site = next((tmp_path / "venv/lib").glob("*/site-packages"))
    sizes = {entry.name: sum(f.stat().st_size for f in entry.rglob("*") if f.is_file()) for entry in site.iterdir()}
    megabytes = sum(sizes.values()) / 1e6
    print(listed)
    for size, name in sorted(((size, name) for name, size in sizes.items()), reverse=True)[:12]:
        print(f"{size / 1e6:7.1f} MB  {name}")
    print(f"{megabytes:.0f} MB in all")

    assert megabytes < 350
    assert not re.search("tensorflow|keras|matplotlib|onnx|scipy|scikit", listed)
    for words in board_commands():
        words = [str(site / "mobilearc" / words[0]), *words[1:]]
        if words[1:3] == ["faces", "data"]:
            shutil.rmtree(place / "data", ignore_errors=True)
        done = subprocess.run([python, *words], cwd=place, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{words}\n{done.stderr}"

"""The import law: which room may import which, read from the source; imports inside functions count."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import house
import pytest

from facelib.__main__ import FOLDERS

ROOT = Path(__file__).parents[1]
MODULES = house.library(ROOT)

# What a room may import beside the hall. The name of another room includes its sub-rooms; the name of a room's own
# parent means the files directly in it.
LAW = {
    "data": (),
    "data.readers": ("data",),
    "data.verification": ("data",),
    "data.conversion": ("data", "data.readers", "data.verification"),
    "data.curation": ("data", "data.readers", "data.verification"),
    "data.synthetic": ("data", "data.readers", "data.verification"),
    "alignment": (),
    "models": (),
    "models.onnx_import": ("models",),
    "distributed": (),
    "losses": ("distributed",),
    "runtimes": ("models", "losses"),
    "evaluation": ("data", "alignment"),
    "evaluation.ijb": ("evaluation", "data", "alignment"),
    "recognition": ("evaluation", "alignment"),
    "recognition.video": ("recognition", "evaluation", "alignment"),
    "export": ("runtimes", "models", "data"),
    "export.tflite": ("export", "runtimes", "models", "data"),
    "export.onnx": ("export", "runtimes", "models", "data"),
    "export.ncnn": ("export", "runtimes", "models", "data"),
    "export.rknn": ("export", "runtimes", "models", "data"),
    "export.coreml": ("export", "runtimes", "models", "data"),
    "export.esp": ("export", "runtimes", "models", "data"),
    "export.om": ("export", "runtimes", "models", "data"),
    "export.k210": ("export", "runtimes", "models", "data"),
    "export.kit": ("export", "export.onnx", "export.tflite", "runtimes", "models", "data"),
    "export.mcu": ("export", "runtimes", "models", "data"),
    "importing": ("models", "runtimes", "export", "data"),
    "training": ("training.recipe", "data", "models", "losses", "distributed", "runtimes"),
    "training.recipe": ("data", "models", "losses", "distributed"),
    "reports": ("evaluation", "data", "export"),
    "hall": (),
}
NETS = ("mobilefacenet", "my_mobilenet", "iresnet", "ghostfacenet", "edgeface", "mixfacenet")
# What the modules at the top level that others import may import: rooms and each other.
ROOT_LAW = {
    **dict.fromkeys(NETS, ("models",)),
    "backbones": ("models", "runtimes", *NETS),
    "face_loss_k": ("losses",),
    "dataset": ("data",),
    "import_model": ("importing", "models", "training", *NETS),
    "evaluate_data": ("evaluation", "runtimes", "data"),
}
# Arrows against the law: (importer, imported) and why. An arrow that is no longer there must go from this list.
EXCEPTIONS = {
    ("dataset", "facelib.training.recipe.schema"): "the training pipeline is built from the [data] table of a recipe",
    ("facelib.data.readers.calibration_crops", "facelib.data.verification.bins"): (
        "calibration images may be taken from a verification set"
    ),
}

ROOT_FILES = {p.stem: p for p in sorted(ROOT.glob("*.py"))}
SCRIPTS = [p for name, p in ROOT_FILES.items() if name not in ROOT_LAW]
SCRIPTS += [p for folder in (*FOLDERS[1:], "docs/demo") for p in sorted((ROOT / folder).glob("*.py"))]
SCRIPT_NAMES = {p.stem for p in SCRIPTS}
ALL_FILES = [*MODULES.values(), *(ROOT_FILES[name] for name in ROOT_LAW), *SCRIPTS]

# Importing one of these takes longer than all else that --help does, or it is not installed everywhere.
SLOW = {"tensorflow", "keras", "h5py", "matplotlib", "faiss", "onnx", "onnxruntime", "ai_edge_litert",
        "tflite_runtime", "sklearn", "scipy", "jinja2", "jsonschema", "fsspec", "s3fs", "gcsfs"}  # fmt: skip


@cache
def tree(path):
    return ast.parse(path.read_text(), str(path))


@cache
def imports(path):
    return house.imports_of(tree(path))


def named(path):
    return path.relative_to(ROOT).as_posix()


def per_file(paths):
    return pytest.mark.parametrize("path", paths, ids=named)


def target_of(found):
    """The module of the project that an import names, or the top-level package of a library."""
    name = house.module_of(found.name, MODULES)
    return name if name in MODULES else found.name.split(".")[0]


def against_the_law():
    """{(importer, imported): 'file:line'} of every arrow that the tables do not allow."""
    wrong = {}
    for module, path in MODULES.items():
        room = house.room_of(module, MODULES, depth=2)
        for found in imports(path):
            if not room_may_import(room, target_of(found)):
                wrong[module, target_of(found)] = f"{named(path)}:{found.line}"
    for name, allowed in ROOT_LAW.items():
        for found in imports(ROOT_FILES[name]):
            target = target_of(found)
            is_allowed = (
                house.room_of(target, MODULES) in (*allowed, "hall")
                if target in MODULES
                else target in allowed or target not in {*ROOT_LAW, *SCRIPT_NAMES}
            )
            if not is_allowed:
                wrong[name, target] = f"{named(ROOT_FILES[name])}:{found.line}"
    return wrong


def room_may_import(room, target):
    if target not in MODULES:
        return target not in {*ROOT_LAW, *SCRIPT_NAMES}
    other = house.room_of(target, MODULES, depth=2)
    top = other.split(".")[0]
    return other in (room, "hall", *LAW[room]) or (top != room.split(".")[0] and top in LAW[room])


# ------------------------------------------------------------------------------------------------------------ rooms


def test_the_tree_is_where_this_test_looks():
    assert {"facelib.cli", "facelib.models.layers", "facelib.training.trainer"} <= MODULES.keys()
    assert {"train", "prepare_data", "h5_2_pb", "pb_test", "tflite_test", "clean_data", "image2bin"} <= SCRIPT_NAMES


def test_every_room_is_in_the_table():
    assert {house.room_of(module, MODULES, depth=2) for module in MODULES} == LAW.keys()


def test_rooms_and_root_modules_import_what_the_law_allows():
    wrong = {arrow: place for arrow, place in against_the_law().items() if arrow not in EXCEPTIONS}

    assert not wrong, "\n".join(f"{place} imports {arrow[1]}" for arrow, place in wrong.items())


@pytest.mark.parametrize("arrow", EXCEPTIONS, ids=" -> ".join)
def test_every_exception_is_still_needed(arrow):
    assert arrow in against_the_law(), f"{' -> '.join(arrow)} is gone: take it from EXCEPTIONS"


@per_file(SCRIPTS)
def test_scripts_do_not_import_each_other(path):
    for found in imports(path):
        assert target_of(found) not in SCRIPT_NAMES, f"{named(path)}:{found.line} imports the script {found.name}"


@per_file(ALL_FILES)
def test_nothing_imports_tests_or_benchmarks(path):
    assert not {"tests", "benchmarks", "pytest", "hypothesis"} & {found.name.split(".")[0] for found in imports(path)}


@per_file(ALL_FILES)
def test_no_import_is_relative(path):
    assert not [found for found in imports(path) if found.name.startswith(".")]


def test_there_are_no_circles_of_files_or_rooms():
    arrows = house.file_arrows(MODULES)

    assert house.circles(arrows) == []
    assert house.circles(house.room_arrows(arrows, MODULES)) == []


def test_circles_are_found():
    assert house.circles([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("e", "a")]) == [["a", "b", "c"]]
    assert house.circles([("a", "b"), ("b", "c"), ("a", "c")]) == []


# ------------------------------------------------------------------------------------------------------------ weight


def loaded_at_import(path, seen=None):
    """Every library that importing a file imports, through the project's modules too."""
    seen = set() if seen is None else seen
    for found in imports(path):
        target = target_of(found)
        if found.is_top and target not in seen:
            seen.add(target)
            inner = MODULES.get(target) or ROOT_FILES.get(target)
            if inner:
                loaded_at_import(inner, seen)
    return seen


@per_file([*SCRIPTS, ROOT_FILES["dataset"], ROOT_FILES["evaluate_data"]])
def test_a_script_imports_slow_libraries_inside_functions(path):
    slow = loaded_at_import(path) & SLOW

    assert not slow, f"importing {named(path)} imports {sorted(slow)} before any argument is read"


def test_slow_libraries_are_found_through_other_modules():
    assert "keras" in loaded_at_import(MODULES["facelib.losses.fixed_margins"])
    assert "keras" in loaded_at_import(ROOT_FILES["face_loss_k"])


@per_file(ALL_FILES)
def test_a_module_only_defines_things(path):
    kinds = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign | ast.For

    for node in tree(path).body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        assert isinstance(node, kinds) or is_docstring or is_guard(node) or is_set_up(path, node), (
            f"{named(path)}:{node.lineno} works at import: {ast.unparse(node)[:60]}"
        )


def is_guard(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("__name__ == '__main__'", "TYPE_CHECKING")


def is_set_up(path, node):
    """Keras reads its settings when it is imported; Ctrl-C may come during the imports; scripts in folders are run by
    path and find the project's root."""
    if ast.unparse(node) in ("guard_start()", "settle_environment()"):
        return path == ROOT / "facelib" / "__init__.py"
    return path.parent != ROOT and path in SCRIPTS and ast.unparse(node).startswith("sys.path.insert(0, ")


@per_file(ALL_FILES)
def test_every_module_has_a_docstring(path):
    assert ast.get_docstring(tree(path)), named(path)


def test_importing_every_script_imports_no_framework_and_touches_no_file():
    program = """
import importlib.util, os, sys
def watch(event, args):
    if event in ("subprocess.Popen", "os.mkdir", "os.remove", "os.rename", "socket.connect"):
        raise AssertionError(f"{event} at import")
    if event == "open" and isinstance(args[0], str) and os.path.abspath(args[0]).startswith(os.getcwd() + os.sep):
        assert args[0].endswith((".py", ".so")) or "__pycache__" in args[0] or ".venv" in args[0], f"opens {args[0]}"
sys.dont_write_bytecode = True
sys.addaudithook(watch)
for path in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location("script", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    slow = {"tensorflow", "keras", "matplotlib", "onnx", "ai_edge_litert"} & set(sys.modules)
    assert not slow, f"importing {path} imports {sorted(slow)}"
"""
    paths = [*SCRIPTS, ROOT_FILES["dataset"], ROOT_FILES["evaluate_data"]]

    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, paths)], capture_output=True, text=True, cwd=ROOT, timeout=300
    )

    assert done.returncode == 0, done.stderr.strip().splitlines()[-1]

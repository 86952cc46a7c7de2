"""The import law of design.md section 2, read from the source with ast: who may import what, and nothing at import."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = sorted((ROOT / "facelib").rglob("*.py"))
LAYER_1 = {
    "dataset",
    "face_loss_k",
    "evaluate_data",
    "mobilefacenet",
    "my_mobilenet",
    "iresnet",
    "ghostfacenet",
    "backbones",
}
ROOT_FILES = sorted(ROOT.glob("*.py"))
LAYER_1_FILES = [p for p in ROOT_FILES if p.stem in LAYER_1]
SCRIPTS = [p for p in ROOT_FILES if p.stem not in LAYER_1]
FOLDERS = ("tools", "om", "k210", "docs/demo")
SCRIPTS += sorted(p for folder in FOLDERS for p in (ROOT / folder).glob("*.py"))  # k210/.venv is not ours
SCRIPT_NAMES = {p.stem for p in SCRIPTS}
PROJECT = {"facelib"} | LAYER_1 | SCRIPT_NAMES

# Beside the standard library. Those of LAZY are slow to import or not always installed: inside functions only.
SMALL_LIBRARIES = {"numpy", "cv2", "tqdm", "crc32c", "simplejpeg"}
LAZY = {"mtcnn", "h5py", "matplotlib", "faiss", "onnx", "onnxruntime", "ai_edge_litert", "tflite_runtime"}
FRAMEWORKS = {"tensorflow": "TensorFlow", "keras": "Keras"}
LAYER_1_MODELS = {
    "face_loss_k",
    "mobilefacenet",
    "my_mobilenet",
    "iresnet",
    "ghostfacenet",
    "backbones",
}  # may import Keras at the top


@cache
def tree(path):
    return ast.parse(path.read_text(), str(path))


def imports(path):
    """[(top-level package, is at module level, line)] of one file; importlib calls with a literal name included."""
    found = []

    def visit(node, is_top):
        if isinstance(node, ast.Import):
            found.extend((alias.name.split(".")[0], is_top, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: a relative import"
            found.append((node.module.split(".")[0], is_top, node.lineno))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("import_module", "importlib.import_module"):
            if isinstance(node.args[0], ast.Constant):
                found.append((node.args[0].value.split(".")[0], is_top, node.lineno))
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            is_top = False  # for readers and type checkers; does not run
        is_inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, is_top and not is_inside)

    visit(tree(path), True)
    return found


def named(path):
    return path.relative_to(ROOT).as_posix()


def per_file(paths):
    return pytest.mark.parametrize("path", paths, ids=named)


def names_of(path):
    """What the docstring's first paragraphs say: {'TensorFlow'}, {'Keras'}, both or neither."""
    text = ast.get_docstring(tree(path)) or ""
    return {name for name in FRAMEWORKS.values() if f"Names {name}" in text}


def is_main_guard(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("__name__ == '__main__'", "TYPE_CHECKING")


# ------------------------------------------------------------------------------------------------------ layers


def test_the_tree_is_where_this_test_looks():
    assert {"cli.py", "layers.py", "trainer.py"} <= {p.name for p in LIBRARY}
    assert {"train", "prepare_data", "h5_2_pb", "pb_test", "tflite_test", "pb_2_tflite"} <= SCRIPT_NAMES
    assert {"dataset", "face_loss_k", "mobilefacenet", "evaluate_data"} <= {p.stem for p in LAYER_1_FILES}


@per_file(LIBRARY)
def test_layer_0_imports_layer_0_and_small_libraries(path):
    allowed = sys.stdlib_module_names | SMALL_LIBRARIES | LAZY | FRAMEWORKS.keys() | {"facelib"}

    for package, _, line in imports(path):
        assert package in allowed, f"{named(path)}:{line} imports {package}"


@per_file(LAYER_1_FILES)
def test_layer_1_imports_layer_0_alone(path):
    for package, _, line in imports(path):
        assert package not in PROJECT - {"facelib"}, f"{named(path)}:{line} imports {package}: move it down a layer"


@per_file(SCRIPTS)
def test_layer_2_imports_layers_1_and_0_alone(path):
    for package, _, line in imports(path):
        assert package not in SCRIPT_NAMES, f"{named(path)}:{line} imports the script {package}: move it down a layer"


@per_file([*LIBRARY, *ROOT_FILES])
def test_nothing_imports_tests_or_benchmarks(path):
    assert not {"tests", "benchmarks", "pytest", "hypothesis"} & {package for package, _, _ in imports(path)}


# ------------------------------------------------------------------------------------------- frameworks and weight


@per_file([*LIBRARY, *(p for p in LAYER_1_FILES if p.stem in LAYER_1_MODELS)])
def test_a_file_that_imports_a_framework_says_so(path):
    used = {FRAMEWORKS[package] for package, _, _ in imports(path) if package in FRAMEWORKS}

    if used:
        assert names_of(path), f"{named(path)} imports {used}: its docstring says 'Names TensorFlow.' or 'Names Keras.'"
    if "TensorFlow" in used:
        assert "TensorFlow" in names_of(path), f"{named(path)} imports tensorflow: say 'Names TensorFlow.'"


@per_file(LIBRARY)
def test_a_file_that_names_a_framework_uses_it(path):
    packages = {package for package, _, _ in imports(path)}

    assert not names_of(path) or packages & FRAMEWORKS.keys()


@per_file([*LIBRARY, *ROOT_FILES, *SCRIPTS])
def test_slow_libraries_are_imported_inside_functions(path):
    may_import_keras = path in LIBRARY or path.stem in LAYER_1_MODELS
    slow = LAZY | (set() if may_import_keras else FRAMEWORKS.keys() | LAYER_1_MODELS)

    for package, is_top, line in imports(path):
        assert not (is_top and package in slow), f"{named(path)}:{line} imports {package} before any argument is parsed"


@per_file([*LIBRARY, *LAYER_1_FILES, *SCRIPTS])
def test_a_module_only_defines_things(path):
    kinds = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign | ast.For

    for node in tree(path).body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        assert isinstance(node, kinds) or is_docstring or is_main_guard(node) or is_path_setup(path, node), (
            f"{named(path)}:{node.lineno} works at import: {ast.unparse(node)[:60]}"
        )


def is_path_setup(path, node):
    """Scripts in om/ and k210/ are run by path and must find the project's root."""
    return path.parent != ROOT and path in SCRIPTS and ast.unparse(node).startswith("sys.path.insert(0, ")


@per_file([*LIBRARY, *LAYER_1_FILES, *SCRIPTS])
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
    paths = [*SCRIPTS, *(p for p in LAYER_1_FILES if p.stem not in LAYER_1_MODELS)]

    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, paths)], capture_output=True, text=True, cwd=ROOT, timeout=300
    )

    assert done.returncode == 0, done.stderr.strip().splitlines()[-1]

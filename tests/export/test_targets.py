"""The list of targets: parents first, scripts that exist, environments that make knows, and the page made from it."""

import importlib
import pkgutil
from pathlib import Path

import pytest

import facelib.runtimes
from facelib.embedder import RuntimeEmbedder
from facelib.export.targets import TARGETS, environment_folder, file_order, min_cosine_of
from facelib.runtimes import executors
from facelib.runtimes.tflite import KERNELS
from tests.helpers.target_table import PAGE, render_page

ROOT = Path(__file__).parents[2]
RAN_ON = {"CPU", "simulator", "own kernels", "structure only", "not run"}


def test_parents_come_first_and_a_kind_allows_one_cosine():
    names = [target.name for target in TARGETS]

    assert len(set(names)) == len(names)
    assert len({(target.kind, target.min_cosine) for target in TARGETS}) == len({target.kind for target in TARGETS})
    for i, target in enumerate(TARGETS):
        assert target.parent in (names[:i] if i else [None])


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_script_of_a_target_exists_and_is_told_what_it_works_on(target):
    assert target.test and target.executor and target.ran_on in RAN_ON
    for line in (*target.make, *target.test, *target.fits):
        assert (ROOT / line.split()[0]).is_file()
        assert "{parent}" in line or "{x}" in line
        line.format(x="x", parent="p", bin="b", test="t", far="f", calibration="c", pairs=target.pairs)
    assert ("{pairs}" in str(target.test)) == (target.pairs is not None)
    assert ("{calibration}" in str(target.make)) == ("--calibration" in target.needs)


@pytest.mark.parametrize("environment", sorted({target.environment for target in TARGETS} - {""}))
def test_make_knows_every_environment(environment):
    makefile, folder = (ROOT / "Makefile").read_text(), environment_folder(environment)

    assert f"\n{environment}: {folder}/ready\n" in makefile and f"touch {folder}/ready" in makefile
    assert f" {folder} " in next(line for line in makefile.splitlines() if "rm -rf" in line) + " "
    assert (ROOT / environment / "requirements.txt").is_file()


def test_reports_sort_by_the_list_and_conversions_take_its_cosines():
    order = file_order()

    assert order.index("float.tflite") < order.index("int8.tflite") < order.index(".tflite") < order.index(".onnx")
    assert min_cosine_of("tflite_fp16") == 0.9995 and min_cosine_of("tflite_int8") is None


def test_the_page_is_made_from_the_list():
    text = PAGE.read_text(encoding="utf-8")

    assert text == render_page(text), "run: python -m tests.helpers.target_table"
    assert "| model_int8.tflite " in text


def test_an_executor_has_one_name_in_reports_and_in_the_list():
    named = {value for name, value in vars(executors).items() if name.isupper()}
    said = set(KERNELS.values()) | {executors.MSAME}
    for module in pkgutil.iter_modules(facelib.runtimes.__path__):
        for each in vars(importlib.import_module(f"facelib.runtimes.{module.name}")).values():
            is_runtime = isinstance(each, type) and issubclass(each, RuntimeEmbedder)
            said |= {each.executor} if is_runtime and each.executor else set()

    assert said <= named
    assert {target.executor for target in TARGETS} == said - {executors.LITERT_REFERENCE}

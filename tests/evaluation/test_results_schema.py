"""A report is as its schema says; anything else is one line, never a traceback."""

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facelib.errors import FaceError
from facelib.evaluation.results import read_ijb_report
from facelib.reports.read_run import read_artefacts
from facelib.reports.run_page import render_artefacts
from tests.helpers.simulated_runs import build_run, name_figure, write_faces


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A full report, as JSON, in its folder."""
    folder = tmp_path_factory.mktemp("report")
    write_faces(folder)
    path = build_run(folder / "run", folder, has_folder_set=True) / "embedder.h5.report.json"
    return path, json.loads(path.read_text())


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """The figures are not drawn; tests/reports/test_verification_plots.py looks at them."""
    monkeypatch.setattr("facelib.reports.run_page.draw_figure", name_figure)


def test_what_a_test_script_writes_is_right(written):
    (artefact,) = read_artefacts([written[0]])

    assert set(artefact.report["sets"]) == {"toy", "people"}


@pytest.mark.parametrize("name", ["identification", "verification"])
def test_an_ijb_report_needs_one_protocol_in_its_form(tmp_path, name):
    path = tmp_path / "x.ijb.report.json"
    for value, words in (({}, "with the key 'verification' or 'identification'"), ({name: 3}, f"{name} must be")):
        path.write_text(json.dumps(value))
        with pytest.raises(FaceError, match=words):
            read_ijb_report(path)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("source", {"path": 3}),
        ("protocol", 5),
        ("acc_folds", [0.5, "x"]),
        ("acc_ci95", [0.1]),
        ("vr", {"often": {"vr": 0.5}}),
        ("thresholds", {"0.01": {"distance": None}}),
        ("thresholds", {"0": {"distance": 1.0, "cosine": 0.5}}),
        ("roc", {"far": [0.1], "tar": [0.5], "tar_low": []}),
        ("histogram", {"edges": [0, 1], "genuine": [1, 2], "impostor": [3]}),
        ("histogram", {"edges": [0], "genuine": [], "impostor": []}),
        ("norms", {"edges": [0, 1], "pairs": [1]}),
        ("hardest", {"false_accepts": []}),
        ("hardest", {"false_accepts": [{"images": [1], "distance": 0.1}], "false_rejects": []}),
        ("groups", {"a": {"pairs": "many"}}),
        ("identification", {"gallery": 3, "mated": 1, "unmated": 1, "rank": [0.5], "fnir": {}}),
    ],
)
def test_a_part_of_another_form_is_one_line_that_names_it(written, tmp_path, part, value):
    report = copy.deepcopy(written[1])
    report["sets"]["toy"][part] = value
    path = tmp_path / "x.report.json"
    path.write_text(json.dumps(report))

    with pytest.raises(FaceError) as error:
        read_artefacts([path])

    assert str(path) in str(error.value) and "toy" in str(error.value)


@pytest.mark.parametrize("key", ["nearest", "distance", "identities"])
def test_a_matrix_that_is_not_square_is_one_line(written, key):
    path, report = written
    report = copy.deepcopy(report)
    report["sets"]["people"]["by_identity"]["confusion"][key] = []
    damaged = path.with_name("not_square.report.json")
    damaged.write_text(json.dumps(report))

    with pytest.raises(FaceError, match=r"a row and a column for each identity.*'people'"):
        read_artefacts([damaged])


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_refused_or_shown_but_never_a_traceback(written, data):
    path, report = written
    report = copy.deepcopy(report)
    places = list(walk(report["sets"]["people"]))
    for _ in range(data.draw(st.integers(1, 3))):
        where, key = data.draw(st.sampled_from(places))
        if isinstance(where, list) and key >= len(where):
            continue
        where[key] = data.draw(st.sampled_from([None, True, -1, 0.5, 1e300, "x", [], [1], {}, {"0.1": {}}]))
    damaged = path.with_name("damaged.report.json")
    damaged.write_text(json.dumps(report))

    try:
        render_artefacts(read_artefacts([damaged]))
    except FaceError as error:
        assert str(damaged) in str(error)


def walk(value):
    """(container, key) of every place below `value`, at most two of a list."""
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))[:2]
    for key, item in items:
        yield value, key
        if isinstance(item, dict | list):
            yield from walk(item)

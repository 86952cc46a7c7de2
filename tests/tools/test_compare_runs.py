"""Several runs on one page: what differs, their scores, and a warning where results must not be compared."""

import json
import re
import shutil

import compare_runs as script
import pytest

from facelib.errors import FaceError
from facelib.reports import comparison
from facelib.reports.comparison import compare_runs
from tests.helpers.simulated_runs import build_run, name_figure, write_faces


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Names in place of figures, except where a test undoes it."""
    monkeypatch.setattr(comparison, "draw_figure", name_figure)


@pytest.fixture
def runs(tmp_path):
    """Two runs that differ in their margin, and one that was tested with flip."""
    write_faces(tmp_path)
    build_run(tmp_path / "margin <04>", tmp_path, margin=0.4)
    build_run(tmp_path / "margin_05", tmp_path, margin=0.5, noise=0.5)
    build_run(tmp_path / "flipped", tmp_path, flip=True)
    return [tmp_path / name for name in ("margin <04>", "margin_05", "flipped")]


def run_script(runs, out, capsys):
    assert script.main([*map(str, runs), "--out", str(out)]) == 0
    return capsys.readouterr().out, out.read_text()


def test_the_table_says_what_differs_and_how_it_trained(runs, tmp_path, capsys):
    text, page = run_script(runs[:2], tmp_path / "c.html", capsys)

    rows = [[cell.strip() for cell in line.split(" | ")] for line in text.splitlines()]
    assert rows[0] == ["run", "differs in", "epochs", "minutes", "best epoch"]
    assert rows[2] == ["margin <04>", "stage.0.margin=0.4", "3", "3.0", "2"]
    assert rows[3] == ["margin_05", "stage.0.margin=0.5", "3", "3.0", "2"]
    assert "warning" not in text
    assert "seed" not in page and re.search(r"margin</td><td>0\.4</td><td>0\.5</td>", page)
    assert "margin &lt;04&gt;" in page and "<04>" not in page


def test_results_are_those_of_the_reports_with_their_intervals(runs, tmp_path, capsys):
    text, _ = run_script(runs[:2], tmp_path / "c.html", capsys)

    for run, artefact in ((runs[0], "embedder.h5"), (runs[1], "export/model_int8.tflite")):
        toy = json.loads((run / f"{artefact}.report.json").read_text())["sets"]["toy"]
        (line,) = [line for line in text.splitlines() if f"{run.name} · {artefact.split('/')[-1]}" in line]
        cells = [cell.strip() for cell in line.split(" | ")]
        low, high = (100 * end for end in toy["acc_ci95"])
        assert cells[1] == f"{100 * toy['acc']:.2f} [{low:.2f}, {high:.2f}]"
        assert cells[3].startswith(f"{100 * toy['vr']['0.1']['vr']:.2f} [") and cells[-1] == "n/a"
    assert "frozen.pb" not in text  # embedder.h5 and the smallest int8 alone
    assert "n/a: toy at FAR=1e-4 needs >= 11,112 impostors" in text


@pytest.mark.slow
def test_runs_that_were_tested_differently_have_separate_tables_and_a_warning(runs, tmp_path, capsys):
    text, page = run_script(runs, tmp_path / "c.html", capsys)

    assert text.startswith("warning: toy #2 (flipped · embedder.h5, flipped · model_int8.tflite) was measured with")
    tables = re.split(r"\ntoy #\d: ", text)[1:]
    assert ["flipped" in table for table in tables] == [False, True]
    assert page.index('class="warning"') < page.index("<table")
    sections = re.split(r"<h2>toy #\d</h2>", page)[1:]
    assert ["flipped" in section for section in sections] == [False, True]


@pytest.mark.slow
def test_curves_of_the_runs_are_in_one_figure_for_each_artefact(runs, tmp_path, capsys):
    _, page = run_script(runs[:2], tmp_path / "c.html", capsys)

    assert re.findall(r'<img alt="([^"]+)"', page) == [
        "loss", "accuracy", "learning_rate", "verification toy", "roc toy, embedder.h5", "roc toy, smallest artefact",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_page_needs_no_network(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.undo()
    _, page = run_script(runs[:2], tmp_path / "c.html", capsys)

    addresses = re.findall(r'(?:src|srcset|href)="([^"]{0,30})', page)
    assert len(addresses) == 12 and all(address.startswith("data:image/png;base64,") for address in addresses)
    assert "<script" not in page and not re.search(r"url\(|@import|https?://", page)


def test_different_training_data_are_a_difference(runs):
    provenance = runs[1] / "provenance.json"
    provenance.write_text(provenance.read_text().replace("ab" * 32, "cd" * 32))

    assert compare_runs(runs[:2]).differing["data (fingerprint)"] == ["abababab", "cdcdcdcd"]


def test_a_run_without_a_recipe_does_not_make_every_key_a_difference(runs, tmp_path, capsys):
    (runs[1] / "config.toml").unlink()

    text, _ = run_script(runs, tmp_path / "c.html", capsys)

    assert list(compare_runs(runs).differing) == ["stage.0.margin"]
    line = next(line for line in text.splitlines() if line.startswith("margin_05 "))
    assert line.split(" | ")[1].strip() == "no recipe"


@pytest.mark.slow
def test_many_differences_have_a_second_table(runs, tmp_path, capsys):
    with open(runs[1] / "config.toml", "a") as file:
        file.write("epochs = 9\nscale = 64.0\nmomentum = 0.5\nflag = true\n")

    text, _ = run_script(runs[:2], tmp_path / "c.html", capsys)

    assert "stage.0.margin=0.5, stage.0.epochs=9, stage.0.scale=64.0, 2 more" in text
    assert re.search(r"^stage\.0\.flag +\| +- \| +true$", text, re.MULTILINE)


def test_a_run_whose_embedder_was_not_tested_is_named(runs, tmp_path, capsys):
    (runs[1] / "embedder.h5.report.json").unlink()

    text, _ = run_script(runs[:2], tmp_path / "c.html", capsys)

    assert "warning: margin_05: embedder.h5 was not tested." in text


@pytest.mark.slow
def test_without_an_int8_the_smallest_export_is_compared(runs):
    for run in runs[:2]:
        (run / "export" / "model_int8.tflite.report.json").unlink()

    names = [one.name for run in compare_runs(runs[:2]).runs for one in run.artefacts]

    assert names[1] == "margin <04> · frozen.pb"


def test_runs_with_equal_names_are_told_apart_by_their_folders(runs, tmp_path):
    (tmp_path / "old").mkdir()
    shutil.copytree(runs[1], tmp_path / "old" / "margin_05")

    names = [run.name for run in compare_runs([runs[1], tmp_path / "old" / "margin_05"]).runs]

    assert names == [f"{tmp_path.name}/margin_05", "old/margin_05"]


def test_one_run_alone_or_twice_is_refused(runs, tmp_path):
    for given in (runs[:1], [runs[0], runs[0]], [runs[0], tmp_path / "nothing"]):
        with pytest.raises(FaceError):
            script.main([*map(str, given), "--out", str(tmp_path / "c.html")])
    assert not (tmp_path / "c.html").exists()

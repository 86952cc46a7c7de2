"""The page of a run has the table of artefacts and every figure, and needs no network."""

import base64
import html
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

import report as script
from facelib.errors import FaceError
from facelib.reports import run_page
from facelib.reports.artefact_table import artefact_rows
from facelib.reports.hardest_pairs import FaceFinder
from facelib.reports.read_run import Run, read_run
from facelib.reports.run_page import render_report
from tests.helpers.simulated_runs import ARTEFACTS, build_run, name_figure, write_faces, write_log


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run directory as training and three test scripts leave it; the figures of its page are not drawn."""
    monkeypatch.setattr(run_page, "draw_figure", name_figure)
    write_faces(tmp_path)
    return build_run(tmp_path / "toy <run>", tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was tested on a folder too, after report.py. Tests must not change it."""
    faces = tmp_path_factory.mktemp("finished")
    write_faces(faces)
    folder = build_run(faces / "toy <run>", faces, has_folder_set=True)
    assert script.main([str(folder)]) == 0
    return folder


class Page(HTMLParser):
    """What a browser would fetch, the pictures, and the cells of the tables."""

    def __init__(self, text):
        super().__init__()
        self.fetched, self.alts, self.tags, self.attributes, self.cells = [], [], [], set(), []
        self.text, self.is_in_cell = "", False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attrs = dict(attrs)
        self.attributes |= attrs.keys()
        self.fetched += [attrs[key] for key in ("src", "href", "srcset", "action", "data") if key in attrs]
        self.alts += [attrs["alt"]] if tag == "img" else []
        if tag in ("td", "th"):
            self.cells.append("")
            self.is_in_cell = True

    def handle_endtag(self, tag):
        self.is_in_cell = self.is_in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self.is_in_cell:
            self.cells[-1] += data


def test_the_page_needs_no_network_and_holds_every_figure(finished):
    text = (finished / "report.html").read_text()
    page = Page(text)
    assert "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\"" in text
    assert 'name="viewport" content="width=device-width' in text
    assert page.fetched and all(address.startswith("data:image/") for address in page.fetched)
    assert not re.search(r"url\(|@import|https?://", text)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    alts = [alt.split(":")[0] for alt in page.alts]
    figures = [alt for alt in alts if not alt.startswith("face ")]
    assert text.count('<source media="(prefers-color-scheme: dark)"') == len(figures) - 1  # the contact sheet has one
    training = ["loss", "accuracy", "learning_rate", "verification"]
    of_set = ["roc", "det", "folds", "scores", "norms", "reliability"]
    expected = ["costs", *training, *(f"{key} {name}" for name in ("toy", "people") for key in of_set)]
    assert figures == [*expected, "training faces, one identity a row"]
    hardest = sum(len(result["hardest"][key]) for result in distinct_results(finished) for key in result["hardest"])
    assert alts.count("face 1") == alts.count("face 2") == hardest > 60
    for address in page.fetched:
        image = cv2.imdecode(np.frombuffer(base64.b64decode(address.split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
        assert image is not None and image.std() > 3
    assert "seed = 7" in text and "stage.0.loss = arcface" in text and "0123abcd" in text


def test_the_worst_identities_of_a_folder_are_a_table_with_faces(finished):
    page = Page((finished / "report.html").read_text())
    worst = json.loads((finished / "embedder.h5.report.json").read_text())["sets"]["people"]["by_identity"]["worst"]

    at = page.cells.index("closest other") + 5
    rows = [page.cells[i : i + 6] for i in range(at, at + 6 * len(worst), 6)]
    assert [row[:2] for row in rows] == [[one["identity"], one["nearest"]] for one in worst]
    assert rows[0][3] == str(worst[0]["images"]) and rows[0][4].startswith(str(worst[0]["confused"]))
    assert all(f"face {name}" in page.alts for one in worst for name in one["faces"])


def distinct_results(run):
    """The results of a run, one of each set for those whose hardest pairs are the same."""
    found = {}
    for name in ARTEFACTS[::-1]:
        for set_name, result in json.loads((run / f"{name}.report.json").read_text())["sets"].items():
            images = [[pair["images"] for pair in pairs] for pairs in result["hardest"].values()]
            found.setdefault(f"{set_name} {images}", result)
    return list(found.values())


def test_artefacts_are_in_pipeline_order_with_changes_against_the_first(finished):
    table = Page((finished / "report.html").read_text()).cells
    heads = [
        "artefact",
        "set",
        "tested",
        "executor",
        "MiB",
        "ms",
        "ACC",
        "AUC",
        "VR@FAR=1e-1",
        "VR@FAR=5e-2",
        "VR@FAR=1e-4",
    ]
    rows = [table[i : i + 11] for i in range(0, 7 * 11, 11)]
    reports = [json.loads((finished / f"{name}.report.json").read_text()) for name in ARTEFACTS[::-1]]

    assert rows[0] == heads
    assert [row[0] for row in rows[1:]] == ["embedder.h5", "", "frozen.pb", "", "model_int8.tflite", ""]
    first = reports[0]["sets"]["toy"]
    for row, report in zip(rows[3::2], reports[1:], strict=True):
        result = report["sets"]["toy"]
        vr = result["vr"]["0.1"]
        for cell, value, reference, interval in (
            (row[6], result["acc"], first["acc"], result["acc_ci95"]),
            (row[8], vr["vr"], first["vr"]["0.1"]["vr"], vr["ci95"]),
        ):
            number, *interval_shown = re.fullmatch(r"([\d.]+)[+−±][\d.]+.pt\[([\d.]+), ([\d.]+)\]", cell).groups()
            assert float(number) == pytest.approx(100 * value, abs=0.006)
            assert [float(end) for end in interval_shown] == pytest.approx([100 * end for end in interval], abs=0.006)
            change = float(re.search(r"[+−±][\d.]+", cell)[0].replace("−", "-").replace("±", ""))
            assert change == pytest.approx(100 * (value - reference), abs=0.006)


def test_a_rate_that_a_set_is_too_small_for_says_how_many_impostors_it_needs(finished):
    cells = Page((finished / "report.html").read_text()).cells

    assert "n/aneeds ≥ 11,112 impostors" in cells  # 10,000 in nine folds of ten


def test_thresholds_groups_and_search_have_tables_with_intervals(finished):
    cells = Page((finished / "report.html").read_text()).cells
    people = json.loads((finished / "embedder.h5.report.json").read_text())["sets"]["people"]
    chosen, groups, search = people["thresholds"]["0.01"], people["groups"], people["identification"]

    at = cells.index(f"{chosen['distance']:.4f}[{chosen['distance_ci95'][0]:.4f}, {chosen['distance_ci95'][1]:.4f}]")
    assert cells[at - 1] == "1e-2" and cells[at + 1] == f"{chosen['cosine']:.4f}"
    assert cells[at + 2] == f"[{chosen['far_ci95'][0]:.2g}, {chosen['far_ci95'][1]:.2g}]"
    at = cells.index("odd <ones>")
    odd, even = groups["odd <ones>"], groups["even"]
    assert cells[at + 2].startswith(f"{100 * odd['acc']:.2f}[{100 * odd['acc_ci95'][0]:.2f}, ")
    gap = cells.index("gap")
    assert float(cells[gap + 2]) == pytest.approx(100 * abs(odd["acc"] - even["acc"]), abs=0.006)
    rank = f"{100 * search['rank']['1']:.2f}[{100 * search['rank_ci95']['1'][0]:.2f}, "
    assert any(cell.startswith(rank) for cell in cells)


def test_the_closest_impostors_are_shown_with_distance_and_verdict(finished):
    text = (finished / "report.html").read_text()
    result = json.loads((finished / "embedder.h5.report.json").read_text())["sets"]["toy"]
    closest, threshold = result["hardest"]["false_accepts"][0], result["acc_threshold"]

    assert closest["distance"] <= threshold  # else this is no false accept, and the next line must change
    shown = f'{closest["distance"]:.3f} ≤ {threshold:.3f}<br><b class="bad">accepted</b><br><span>'
    assert shown + " / ".join(closest["images"]) in text


def test_the_terminal_shows_one_table_with_the_numbers_of_the_reports(run, capsys):
    script.main([str(run), "--no-faces"])

    lines = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in lines[0].split("|")] == [
        "artefact", "executor", "size", "ms", "ACC", "AUC", "VR@FAR=1e-1", "VR@FAR=5e-2", "VR@FAR=1e-4"]  # fmt: skip
    acc = json.loads((run / "embedder.h5.report.json").read_text())["sets"]["toy"]["acc"]
    cells = [cell.strip() for cell in lines[2].split("|")]
    assert cells[:4] == ["embedder.h5", "LiteRT XNNPACK", "3.00 MiB", "4.50"] and cells[4].startswith(
        f"{100 * acc:.2f} ["
    )
    assert cells[-1] == "n/a" and "n/a: toy at FAR=1e-4 needs >= 11,112 impostors" in lines


def test_names_of_runs_sets_groups_and_files_are_text_not_markup(run, tmp_path):
    attack = "<script>alert(1)<img src=x onerror='alert(1)'>\""  # without a slash, so that files may have the name
    folder = build_run(tmp_path / attack, tmp_path, has_folder_set=True)
    report = json.loads((folder / "embedder.h5.report.json").read_text())
    result = report["sets"].pop("people")
    result["hardest"]["false_accepts"][0]["images"] = [attack, "<script>.jpg"]
    result["groups"] = {attack: {"pairs": 9, "genuine": 3, "acc": 0.5, "vr": {}}}
    report["sets"][attack] = result
    (folder / f"{attack}.pb.report.json").write_text(json.dumps(report))
    (folder / "provenance.json").write_text(json.dumps({attack: attack}))
    (folder / "config.toml").write_text(f"name = {json.dumps(attack)}\n")

    page = Page(render_report(read_run(folder), b"a sheet", FaceFinder()))

    assert "script" not in page.tags and not [name for name in page.attributes if name.startswith("on")]
    assert all(address.startswith("data:image/") for address in page.fetched)
    assert page.cells.count(attack) == 2 and f"{attack}.pb" in page.cells  # the set, the group; the file
    for text in (f"{attack} / <script>.jpg", f"{attack} = {attack}", f"name = {attack}", f"Verification on {attack}"):
        assert text in page.text
    assert f"face 1: {attack}" in page.alts and page.text.lstrip().startswith(attack)  # the title


def test_an_artefact_that_changed_after_its_test_is_marked(run, capsys):
    path = run / "export" / "frozen.pb.report.json"
    path.write_text(path.read_text().replace('"sha256": null', f'"sha256": "{"0" * 64}"'))
    (run / "export" / "frozen.pb").write_bytes(b"another graph")

    script.main([str(run), "--no-faces"])

    assert "frozen.pb*" in capsys.readouterr().out
    assert [row.is_stale for row in artefact_rows(read_run(run).artefacts)] == [False, True, False]


def test_a_report_that_lacks_optional_parts_still_makes_a_page(run):
    path = run / "embedder.h5.report.json"
    path.write_text('{"artifact": "embedder.h5", "sets": {"lfw": {"acc": 0.9, "vr": {"0.001": {"vr": null}}}}}')

    text = render_report(read_run(run))

    alts = Page(text).alts
    assert "lfw" in text and "roc toy" in alts and "roc lfw" not in alts


def test_a_run_without_tests_has_a_page_and_plots(tmp_path):
    write_log(tmp_path)

    assert script.main([str(tmp_path)]) == 0

    assert Page((tmp_path / "report.html").read_text()).alts
    plots = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert plots == ["accuracy.png", "history.png", "learning_rate.png", "loss.png", "verification.png"]


@pytest.mark.parametrize(("make", "message"), [(False, "RUN_DIR must be a folder"), (True, "has neither")])
def test_a_folder_without_a_run_is_refused(tmp_path, make, message):
    folder = tmp_path / "nothing"
    if make:
        folder.mkdir()

    with pytest.raises(FaceError, match=message):
        script.main([str(folder)])
    assert not (folder / "report.html").exists()


def test_the_training_data_are_found_from_the_run_directory(tmp_path):
    run = Run(tmp_path / "run", provenance={"data": {"path": "../data", "fingerprint": "0"}})

    assert script.data_of(run).resolve() == (tmp_path / "data").resolve()
    assert script.data_of(Run(tmp_path)) is None


def test_missing_training_data_are_an_error_only_if_they_were_named(run, tmp_path):
    shutil.rmtree(tmp_path / "people")

    assert script.main([str(run)]) == 0
    with pytest.raises(FaceError):
        script.main([str(run), "--data", str(tmp_path / "people")])


def test_help_answers_without_matplotlib_and_jinja2():
    code = (
        "import sys, report\ntry: report.main(['--help'])\nexcept SystemExit: pass\n"
        "print({'matplotlib', 'jinja2'} & sys.modules.keys())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         cwd=Path(script.__file__).parent)  # fmt: skip

    assert run.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize(("name", "title"), [("", "a_<run>"), ("unnamed", "a_<run>"), ("run", "a_<run>"),
                                             ("<b>", "a_<run> (<b>)")])  # fmt: skip
def test_the_title_is_the_name_of_the_run_with_that_of_its_recipe_where_it_differs(tmp_path, name, title):
    text = render_report(Run(tmp_path / "a_<run>", config={"name": name}))

    assert Page(text).text.count(title) == 2 and "<b>" not in text  # the title and the headline
    assert f"<title>{html.escape(title)}</title>" in text


def test_artefacts_of_different_runs_are_compared_on_one_page(run, tmp_path, capsys):
    for name, noise in (("a", 0), ("b", 1)):
        build_run(tmp_path / name, tmp_path, noise=noise)
    reports = [str(tmp_path / run / "export" / "model_int8.tflite.report.json") for run in "ab"]

    with pytest.raises(FaceError, match=r"compare_runs\.py"):
        script.main([str(tmp_path / "a"), str(tmp_path / "b")])
    with pytest.raises(FaceError, match="--out compare"):
        script.main(reports)
    assert script.main([*reports, "--out", str(tmp_path / "page.html")]) == 0

    out = capsys.readouterr().out
    assert "a/model_int8.tflite" in out and "b/model_int8.tflite" in out and "warning" not in out
    text = (tmp_path / "page.html").read_text()
    assert "roc toy" in Page(text).alts
    assert Page(text).cells.count("a/model_int8.tflite") == 2  # artefacts, thresholds
    with pytest.raises(FaceError, match="passed twice"):
        script.main([reports[0], reports[0], "--out", str(tmp_path / "page.html")])
    with pytest.raises(FaceError, match="overwrite"):
        script.main([*reports, "--out", reports[0]])


def test_no_faces_are_in_the_page_when_asked_for_none(run):
    script.main([str(run), "--no-faces"])

    assert "image/jpeg" not in (run / "report.html").read_text()


def test_a_report_of_ijb_has_tables(run):
    vr = {"vr": 0.5, "ci95": [0.4, 0.6], "far": 1e-4, "threshold": 0.7, "needs_impostors": 10_000}
    miss = {"fnir": 0.2, "ci95": [0.1, 0.3], "fpir": 0.1, "threshold": 0.9, "needs_unmated": 10}
    one = {"gallery": 20, "mated": 30, "unmated": 40, "rank": {"1": 0.9}, "rank_ci95": {"1": [0.8, 0.95]}}
    pairs = {"pairs": 15_658_489, "genuine": 19_557, "auc": 0.99, "eer": 0.02, "vr": {"0.0001": vr}}
    switches = {"set": "ijbc", "flip": True, "normalize": False, "detector_score": True}
    ijb = {**switches, "verification": pairs, "identification": {"G1": {**one, "fnir": {"0.1": miss}}}}
    (run / "embedder.h5.ijb.report.json").write_text(json.dumps(ijb))

    cells = Page(render_report(read_run(run))).cells

    at = cells.index("embedder.h5 · ijbc N1 D1 F1")
    assert cells[at + 1 : at + 4] == ["15,658,489", "0.99000", "50.00[40.00, 60.00]"]
    at = cells.index("embedder.h5 · G1")
    assert cells[at + 4 : at + 6] == ["90.00[80.00, 95.00]", "20.00[10.00, 30.00]distance ≤ 0.9000"]
    (run / "embedder.h5.ijb.report.json").write_text('{"verification": {"pairs": 3}}')
    with pytest.raises(FaceError, match="verification must be an object with the key 'genuine'"):
        read_run(run)


def test_a_report_of_tinyface_has_a_table_and_the_nearest_rule_is_named(run):
    rank = {"1": {"rate": 0.5, "ci95": [0.4, 0.6]}, "20": {"rate": 0.75}}
    tinyface = {"probes": 3728, "gallery": 4443, "distractors": 153428, "rank": rank}
    (run / "embedder.h5.tinyface.report.json").write_text(json.dumps(tinyface))
    nearest = {"pairs": 9, "genuine": 3, "auc": 0.9, "rule": "nearest", "vr": {}}
    (run / "embedder.h5.ijb.report.json").write_text(json.dumps({"set": "ijbb", "verification": nearest}))

    cells = Page(render_report(read_run(run))).cells

    at = cells.index("3,728")
    assert cells[at - 1 : at + 5] == ["embedder.h5", "3,728", "4,443", "153,428", "50.00[40.00, 60.00]", "75.00"]
    assert "embedder.h5 · ijbb N1 D0 F0 · nearest FAR" in cells

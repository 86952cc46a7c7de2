"""The page of a run: the stage table and every figure are in it, and it opens without a network."""

import base64
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
from facelib.cli import FaceError
from facelib.html_report import render_report
from facelib.measure import measure_pairs
from facelib.report import Report
from facelib.run_summary import Run, read_metrics, read_run
from facelib.stage_table import format_far, stage_rows
from facelib.toy_data import ToySet, write_folders
from facelib.training_plots import plot_curves, write_training_plots

STAGES = ("export/optimized_int8.tflite", "export/frozen.pb", "embedder.h5")  # not in pipeline order


def write_log(run, num_steps=30, epoch_steps=10):
    lines = []
    for step in range(1, num_steps + 1):
        lines.append({"kind": "step", "step": step, "epoch": (step - 1) // epoch_steps + 1, "loss": 10 / step,
                      "accuracy": step / num_steps, "learning_rate": 0.1, "images_per_s": 100.0})  # fmt: skip
        if step % epoch_steps == 0:
            sets = {
                "toy": {"acc": 0.5 + step / 100, "acc_std": 0.01, "auc": 0.9, "eer": 0.1, "vr": {"0.1": {"vr": 0.5}}}
            }
            lines.append({"kind": "epoch", "step": step, "epoch": step // epoch_steps, "loss": 1.0, "accuracy": 0.5,
                          "seconds": 60.0, "sets": sets})  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def run(tmp_path):
    """A run directory as training and three test scripts leave it."""
    return build_run(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Such a run after report.py: only to be looked at."""
    folder = build_run(tmp_path_factory.mktemp("finished"))
    assert script.main([str(folder)]) == 0
    return folder


def build_run(tmp_path):
    folder, rng = tmp_path / "toy <run>", np.random.default_rng(0)
    (folder / "export").mkdir(parents=True)
    write_log(folder)
    write_folders(tmp_path / "faces", ToySet(2, 2))
    (folder / "config.toml").write_text('seed = 7\n[[stage]]\nloss = "arcface"\n')
    provenance = {"git": "0123abcd", "data": {"path": "../faces"}, "note": "<script>alert(1)</script>"}
    (folder / "provenance.json").write_text(json.dumps(provenance))
    is_same = np.tile([True, False], 100)
    for noise, name in enumerate(STAGES[::-1]):
        distances = np.where(is_same, 0.8, 1.6) + rng.normal(0, 0.2 + 0.1 * noise, 200)
        measured = measure_pairs("toy", distances, is_same, (1e-1, 5e-2))
        Report(name, "any", (measured,), size_bytes=2**20 * (3 - noise), ms_per_image=4.5, threads=2).write(
            folder / f"{name}.report.json"
        )
    return folder


class Page(HTMLParser):
    """Collects what a browser would fetch, the pictures and the table."""

    def __init__(self, text):
        super().__init__()
        self.fetched, self.alts, self.tags, self.cells = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attrs = dict(attrs)
        self.fetched += [attrs[key] for key in ("src", "href", "srcset", "action", "data") if key in attrs]
        self.alts += [attrs["alt"]] if tag == "img" else []
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data):
        if self.cells:
            self.cells[-1] += data


def test_the_page_needs_no_network_and_holds_every_figure(finished):
    text = (finished / "report.html").read_text()
    page = Page(text)
    assert page.fetched and all(address.startswith("data:image/") for address in page.fetched)
    assert not re.search(r"url\(|@import|https?://", text)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    names = ("loss", "accuracy", "learning_rate", "verification", "roc toy", "det toy", "scores toy", "folds toy",
             "training faces")  # fmt: skip
    assert [alt.split(":")[0].split(",")[0] for alt in page.alts] == list(names)
    for address in page.fetched:
        image = cv2.imdecode(np.frombuffer(base64.b64decode(address.split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
        assert image is not None and image.std() > 3
    assert "seed = 7" in text and "stage.0.loss = arcface" in text and "0123abcd" in text


def test_the_page_says_light_and_dark_and_suits_a_telephone(finished):
    text = (finished / "report.html").read_text()

    assert 'name="viewport" content="width=device-width' in text
    assert text.count('media="(prefers-color-scheme: dark)"') == 8  # one for each of the eight plots


def test_stages_stand_in_pipeline_order_with_changes_against_the_first(finished):
    table = Page((finished / "report.html").read_text()).cells
    rows = [table[i : i + 7] for i in range(0, 4 * 7, 7)]
    reports = [json.loads((finished / f"{name}.report.json").read_text()) for name in STAGES[::-1]]

    assert [row[0] for row in rows] == ["stage", "embedder.h5", "frozen.pb", "optimized_int8.tflite"]
    assert rows[0] == ["stage", "size", "ms", "ACC", "AUC", "VR@FAR=1e-1", "VR@FAR=5e-2"]
    first = reports[0]["sets"]["toy"]
    for row, report in zip(rows[2:], reports[1:], strict=True):
        result = report["sets"]["toy"]
        for cell, value, reference in (
            (row[3], result["acc"], first["acc"]),
            (row[5], result["vr"]["0.1"]["vr"], first["vr"]["0.1"]["vr"]),
        ):
            shown, change = re.fullmatch(r"([\d.]+)([+−±][\d.]+) pt\[.+, .+\]", cell).groups()
            assert float(shown) == pytest.approx(100 * value, abs=0.006)
            change = float(change.replace("−", "-").replace("±", ""))
            assert change == pytest.approx(100 * (value - reference), abs=0.006)


def test_the_terminal_shows_one_table_with_the_numbers_of_the_reports(run, capsys):
    script.main([str(run), "--no-faces"])

    lines = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in lines[0].split("|")] == [
        "stage", "size", "ms", "ACC", "AUC", "VR@FAR=1e-1", "VR@FAR=5e-2"]  # fmt: skip
    acc = json.loads((run / "embedder.h5.report.json").read_text())["sets"]["toy"]["acc"]
    cells = [cell.strip() for cell in lines[2].split("|")]
    assert cells[:3] == ["embedder.h5", "3.00 MiB", "4.50"] and cells[3].startswith(f"{100 * acc:.2f} [")


def test_what_the_run_says_is_text_not_markup(finished):
    text = (finished / "report.html").read_text()

    assert "script" not in Page(text).tags
    assert "&lt;run&gt;" in text


def test_an_artefact_that_changed_after_its_test_is_marked(run, capsys):
    path = run / "export" / "frozen.pb.report.json"
    path.write_text(path.read_text().replace('"sha256": null', f'"sha256": "{"0" * 64}"'))
    (run / "export" / "frozen.pb").write_bytes(b"another graph")

    script.main([str(run), "--no-faces"])

    assert "frozen.pb*" in capsys.readouterr().out
    assert [row.is_stale for row in stage_rows(read_run(run).stages)] == [False, True, False]


def test_a_report_with_less_in_it_still_makes_a_page(run):
    path = run / "embedder.h5.report.json"
    path.write_text('{"artifact": "embedder.h5", "sets": {"lfw": {"acc": 0.9, "vr": {"0.001": {"vr": null}}}}}')

    text = render_report(read_run(run))

    assert "lfw" in text and "roc lfw" not in text and "roc toy" in text


def test_training_alone_makes_a_page_and_plots(tmp_path):
    write_log(tmp_path)

    assert script.main([str(tmp_path)]) == 0

    assert Page((tmp_path / "report.html").read_text()).alts
    plots = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert plots == ["accuracy.png", "learning_rate.png", "loss.png", "verification.png"]


def test_steps_repeated_after_a_resume_count_once_and_a_cut_line_does_not(tmp_path):
    log = tmp_path / "metrics.jsonl"
    lines = [{"kind": "step", "step": step, "loss": loss} for step, loss in ((1, 5), (2, 4), (3, 9), (2, 4.5), (3, 3))]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "step", "st')

    steps, epochs = read_metrics(log)

    assert [(line["step"], line["loss"]) for line in steps] == [(1, 5), (2, 4.5), (3, 3)] and epochs == []
    log.write_text('{"kind": "step"}\n' + json.dumps(lines[0]))
    with pytest.raises(FaceError, match="line 1"):
        read_metrics(log)


def test_a_loss_that_is_not_finite_does_not_break_the_curve():
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": float("nan")}, {"step": 3, "loss": None}]

    assert plot_curves([("", lines)], "loss", "loss").startswith(b"\x89PNG")
    assert plot_curves([("", [])], "loss", "loss").startswith(b"\x89PNG")


def test_no_log_makes_no_plot(tmp_path):
    assert write_training_plots(tmp_path) == []


@pytest.mark.parametrize(("make", "message"), [(False, "RUN_DIR is a folder"), (True, "has neither")])
def test_a_folder_without_a_run_is_refused(tmp_path, make, message):
    folder = tmp_path / "nothing"
    if make:
        folder.mkdir()

    with pytest.raises(FaceError, match=message):
        script.main([str(folder)])
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("said", [{"data": 5}, {"data": {"path": 5}}])
def test_a_provenance_that_was_edited_by_hand_is_refused(tmp_path, said):
    (tmp_path / "metrics.jsonl").write_text('{"kind": "step", "step": 1, "epoch": 1, "loss": 2.0}\n')
    (tmp_path / "provenance.json").write_text(json.dumps(said))

    with pytest.raises(FaceError, match="names its data"):
        read_run(tmp_path)


def test_the_training_data_are_found_from_the_run_directory(tmp_path):
    run = Run(tmp_path / "run", provenance={"data": {"path": "../data", "fingerprint": "0"}})

    assert script.data_of(run).resolve() == (tmp_path / "data").resolve()
    assert script.data_of(Run(tmp_path)) is None


def test_named_data_that_are_missing_are_an_error_but_the_recipes_may_be_gone(run, tmp_path):
    shutil.rmtree(tmp_path / "faces")

    assert script.main([str(run)]) == 0
    with pytest.raises(FaceError):
        script.main([str(run), "--data", str(tmp_path / "faces")])


@pytest.mark.parametrize(("far", "text"), [("0.001", "1e-3"), ("0.1", "1e-1"), ("5e-05", "5e-5"), ("0.025", "2.5e-2")])
def test_rates_are_written_as_powers_of_ten(far, text):
    assert format_far(far) == text


def test_help_answers_at_once_without_matplotlib():
    code = (
        "import sys, report\ntry: report.main(['--help'])\nexcept SystemExit: pass\nprint('matplotlib' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         cwd=Path(script.__file__).parent)  # fmt: skip

    assert run.stdout.splitlines()[-1] == "False"


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")
def test_a_browser_draws_the_page_at_telephone_width_without_sideways_scrolling(finished, tmp_path):
    page = finished / "report.html"
    probe = tmp_path / "probe.html"  # the page, and its own measure of itself as its title
    is_drawn = "[...document.images].every(image => image.naturalWidth > 0)"
    measure = f"document.title = [document.documentElement.scrollWidth, innerWidth, {is_drawn}]"
    probe.write_text(page.read_text().replace("</body>", f"<script>onload=()=>{{{measure}}}</script></body>"))
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}/chromium",
        "--window-size=500,900",
    ]

    dump = subprocess.run([CHROMIUM, *flags, "--dump-dom", probe.as_uri()], capture_output=True, text=True, timeout=120)

    width, window, is_drawn = re.search(r"<title>(\d+),(\d+),(\w+)</title>", dump.stdout).groups()
    assert int(width) <= int(window) and is_drawn == "true"

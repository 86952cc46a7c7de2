"""report.py --watch: the page follows the files of a run, whatever state they are in. Nothing here waits."""

import json

import pytest

import report as script
from facelib.errors import FaceError
from facelib.reports import run_page, watch
from tests.helpers.simulated_runs import build_run, name_figure, write_faces, write_log

STEP = {"kind": "step", "step": 1, "epoch": 1, "loss": 9.0}


class Waiting:
    """Stands in for time.sleep: before each look at the files something happens, and at the end Ctrl-C."""

    def __init__(self, *events):
        self.events, self.seconds = list(events), []

    def __call__(self, seconds):
        self.seconds.append(seconds)
        if not self.events:
            raise KeyboardInterrupt
        self.events.pop(0)()


@pytest.fixture
def follow(tmp_path, monkeypatch, capsys):
    """Runs `report.py RUN --watch` while events happen; gives its lines, its waits and RUN/report.html."""
    monkeypatch.setattr(run_page, "draw_figure", name_figure)
    page = tmp_path / "report.html"

    def run(*events, flags=()):
        waiting = Waiting(*events)
        monkeypatch.setattr(watch.watch_run, "__kwdefaults__", {"wait": waiting, "clock": lambda: 0.0})
        assert script.main([str(tmp_path), "--watch", *flags]) == 0
        return capsys.readouterr().out.splitlines(), waiting.seconds, page.read_text()

    return run


def test_an_empty_run_has_a_page_which_fills_as_the_files_come(tmp_path, follow):
    seen = []

    def look():
        seen.append((tmp_path / "report.html").read_text())

    lines, _, page = follow(
        lambda: (look(), write_log(tmp_path, num_steps=10)),
        lambda: (look(), write_log(tmp_path, num_steps=30)),
        look,
    )

    assert [line.split(": ")[1] for line in lines[:3]] == [
        "nothing is logged yet",
        "1 epoch in 1 min 0 s · 10 steps · 100 images/s · last loss 1.000",
        "3 epochs in 3 min 0 s · 30 steps · 100 images/s · last loss 0.333",
    ]
    assert "nothing is logged yet" in seen[0] and "10 steps" in seen[1] and "30 steps" in seen[2]
    assert all('<meta http-equiv="refresh" content="10">' in text for text in seen)
    assert "30 steps" in page and "refresh" not in page  # after Ctrl-C
    assert lines[3].startswith("stopped")


def test_a_line_that_is_being_written_waits_for_its_end(tmp_path, follow):
    whole = json.dumps(STEP) + "\n"
    (tmp_path / "metrics.jsonl").write_text(whole)
    second = json.dumps({**STEP, "step": 2, "loss": 8.0}) + "\n"

    lines, _, _ = follow(
        lambda: (tmp_path / "metrics.jsonl").write_text(whole + second[:17]),
        lambda: (tmp_path / "metrics.jsonl").write_text(whole + second),
    )

    assert [line.split(": ")[-1] for line in lines[:2]] == ["1 step · last loss 9.000", "2 steps · last loss 8.000"]


def test_a_file_that_cannot_be_read_is_named_once_and_the_page_stays(tmp_path, follow):
    write_log(tmp_path)
    report = tmp_path / "embedder.h5.report.json"

    lines, _, page = follow(
        lambda: report.write_text('{"artifact": "embe'),
        lambda: report.write_text('{"artifact": "embed'),
        lambda: report.write_text('{"artifact": "embedder.h5", "sets": {"lfw": {"acc": 0.9, "vr": {}}}}'),
    )

    assert [line[:5] for line in lines] == ["wrote", "the p", "wrote", "stopp"]
    assert "embedder.h5.report.json" in lines[1] and "90.00" in page


def test_nothing_is_drawn_again_while_nothing_changes_and_long_pages_rest_long(tmp_path):
    made, waiting = [], Waiting(*[lambda: None] * 3)
    times = iter([0.0, 4.0])

    watch.watch_run(tmp_path, tmp_path / "page.html", lambda: (made.append(1), ("<head>\n", "x"))[1], wait=waiting,
                    clock=lambda: next(times))  # fmt: skip

    assert len(made) == 1
    assert waiting.seconds == [36.0, 2.0, 2.0, 2.0]  # nine times as long as the page took


def test_reports_of_a_finished_run_are_seen_and_only_a_folder_can_be_watched(tmp_path, follow):
    write_faces(tmp_path)
    run = tmp_path / "a_run"

    lines, _, _ = follow(lambda: build_run(run, tmp_path).rename(tmp_path / "export"))  # export/*.report.json

    assert len([line for line in lines if line.startswith("wrote")]) == 2
    with pytest.raises(FaceError, match="--watch needs the RUN_DIR"):
        script.main(
            [str(tmp_path / "export" / "embedder.h5.report.json"), "--watch", "--out", str(tmp_path / "x.html")]
        )
    with pytest.raises(FaceError, match="--watch needs the RUN_DIR"):
        script.main([str(tmp_path / "nowhere"), "--watch"])

"""Tests of some pairs of a set (--pairs N), with --flip or by another protocol, beside the test that counts."""

import json
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

import export_all
from facelib.data.verification.bins import load_bin, write_bin
from facelib.errors import FaceError
from facelib.evaluation.gate import is_whole_test
from facelib.evaluation.paired import pack_bits
from facelib.evaluation.results import report_path
from facelib.evaluation.thresholds import read_ratio, read_thresholds
from facelib.files import sha256_of, write_json
from facelib.model_input import Io
from facelib.sidecar import read_sidecar, sidecar_path, write_sidecar
from tests.helpers.mean_colour import read, run_main


@pytest.fixture
def model(shades, tmp_path):
    """A model that was not tested yet, beside shades.bin."""
    shutil.copy(shades / "shades.bin", tmp_path)
    return write_model(tmp_path / "model.fake", b"weights")


def write_model(path, data):
    path.write_bytes(data)
    write_sidecar(path, kind="fake", made_from=None, io=Io())
    return path


def test_a_partial_test_replaces_no_whole_one(model, capsys):
    run_main(model, "--valid", model.parent, "--pairs", "20")
    assert read(model.parent)["sets"]["shades"]["pairs"] == 20  # there was none
    assert read_sidecar(model).rest["thresholds"]["shades"]["drawn_from"] == 60
    run_main(model, "--valid", model.parent)
    report, sidecar = read(model.parent), json.loads(sidecar_path(model).read_text())
    assert report["sets"]["shades"]["pairs"] == 60 and "drawn_from" not in sidecar["thresholds"]["shades"]
    capsys.readouterr()

    assert run_main(model, "--valid", model.parent, "--pairs", "20") == 0

    printed = capsys.readouterr().out
    assert (
        "data set | AUC" in printed and "keeps the test of all 60 pairs of shades" in printed and "--report" in printed
    )
    assert "wrote" not in printed
    assert read(model.parent) == report and json.loads(sidecar_path(model).read_text()) == sidecar
    part = model.parent / "part.json"
    run_main(model, "--valid", model.parent, "--pairs", "20", "--report", part)
    assert json.loads(part.read_text())["sets"]["shades"]["pairs"] == 20
    assert f"wrote {part}" in capsys.readouterr().out and json.loads(sidecar_path(model).read_text()) == sidecar

    write_model(model, b"better weights")
    run_main(model, "--valid", model.parent, "--pairs", "20")  # the whole test was of another file
    assert read(model.parent)["sets"]["shades"]["pairs"] == 20


def thresholds_of(model):
    return read_sidecar(model).rest["thresholds"]["shades"]


@pytest.mark.parametrize(
    "flags, why",
    [
        (["--pairs", "20"], "10 impostor pairs, of 60 pairs in all, by --pairs"),
        (["--flip"], "with flip"),
        (["--protocol", "insightface"], "protocol insightface"),
    ],
)
def test_an_unusual_test_replaces_no_threshold_unless_it_is_asked_to(model, flags, why, capsys):
    run_main(model, "--valid", model.parent)
    before = read_sidecar(model).rest
    assert before["thresholds"]["shades"]["pairs"] == 60
    assert before["thresholds"]["shades"]["date"] == date.today().isoformat()
    capsys.readouterr()

    run_main(model, "--valid", model.parent, *flags)

    printed = capsys.readouterr().out
    assert read_sidecar(model).rest == before
    assert why in printed and "the sidecar keeps its thresholds of shades, 30 impostor pairs" in printed


@pytest.fixture
def larger(model):
    """A set of 240 pairs, which is large enough for FAR 0.01: shades.bin four times."""
    pairs = load_bin(model.parent / "shades.bin")
    write_bin(model.parent / "shades.bin", pairs.images * 4, pairs.is_same.tolist() * 4)
    return model


def test_calibrate_replaces_the_threshold_and_says_what_it_replaced(larger, capsys):
    run_main(larger, "--valid", larger.parent)
    old = thresholds_of(larger)
    capsys.readouterr()

    run_main(larger, "--valid", larger.parent, "--flip", "--calibrate")

    printed, today = capsys.readouterr().out, date.today().isoformat()
    assert thresholds_of(larger)["flip"] and read_sidecar(larger).rest["calibration_set"] == "shades"
    distance = old["far"]["0.01"]["distance"]
    assert (
        f"predict.py now uses the thresholds of shades, 120 impostor pairs, with flip, {today}; before: shades, 120 "
        f"impostor pairs, {today}, {distance:.4f} for FAR 0.01" in printed
    )
    chosen = read_sidecar(larger).rest
    run_main(larger, "--valid", larger.parent)  # as usual, but the other one was a decision
    assert read_sidecar(larger).rest == chosen and "set with --calibrate" in capsys.readouterr().out
    assert read_thresholds(larger, 1e-2).flip


def test_the_chosen_set_counts_also_where_a_larger_one_is_tested_later(larger):
    run_main(larger, "--valid", larger.parent / "shades.bin", "--calibrate")
    pairs = load_bin(larger.parent / "shades.bin")
    write_bin(larger.parent / "more.bin", pairs.images * 2, pairs.is_same.tolist() * 2)

    run_main(larger, "--valid", larger.parent / "more.bin")

    assert read_thresholds(larger, 1e-2).set_name == "shades"
    run_main(larger, "--valid", larger.parent / "more.bin", "--calibrate")
    assert read_thresholds(larger, 1e-2).set_name == "more"


def test_part_of_another_set_replaces_no_threshold_of_a_whole_one(larger):
    run_main(larger, "--valid", larger.parent)
    pairs = load_bin(larger.parent / "shades.bin")
    write_bin(larger.parent / "more.bin", pairs.images * 4, pairs.is_same.tolist() * 4)

    run_main(larger, "--valid", larger.parent / "more.bin", "--pairs", "600")  # 300 impostor pairs, shades has 120

    assert read_thresholds(larger, 1e-2).set_name == "shades"


def test_a_set_too_small_for_any_far_says_so_at_the_test_and_in_predict(model, capsys):
    run_main(model, "--valid", model.parent)

    assert "'shades' has 30 impostor pairs, too few for any threshold: FAR 0.01 needs 100" in capsys.readouterr().out
    with pytest.raises(FaceError, match=r"30 impostor pairs, too few.*larger set, or pass --threshold"):
        read_thresholds(model, 1e-3)
    before = read_sidecar(model).rest
    with pytest.raises(
        FaceError,
        match=r"--calibrate needs a set that is large enough for a threshold\. 'shades' has 30 impostor pairs",
    ):
        run_main(model, "--valid", model.parent, "--calibrate")
    assert read_sidecar(model).rest == before


@pytest.fixture
def chain(model, monkeypatch):
    """`chain(*flags)` runs export_all.py, whose scripts are stand-ins; returns the words of the tests that it ran."""
    run = model.parent / "run"
    run.mkdir()
    write_model(run / "embedder.h5", b"weights")
    tested = []

    def stand_in(words, log):
        values = [str(word) for word in words]
        if "_test.py" in values[0] or values[0] == "evaluate_data.py":
            tested.append(values)
            write_report(values)
        elif values[0] != "report.py":
            out = Path(values[values.index("--out") + 1] if "--out" in values else values[2])
            out.parent.mkdir(exist_ok=True)
            out.write_bytes(values[0].encode())
            mean = bring.mean_cosine if out.name == "optimized.pb" else 1.0
            parity = {"mean_cosine": mean, "min_cosine": 0.3}
            write_sidecar(out, kind="fake", made_from=Path(values[1]), io=Io(), parity=parity)

    def write_report(values):
        num = int(values[values.index("--pairs") + 1]) if "--pairs" in values else 60
        source = {"path": "shades.bin", "sha256": sha256_of(model.parent / "shades.bin")}
        source |= {"drawn_from": 60} if num < 60 else {}
        result = {"acc": 0.9, "pairs": num, "genuine": num // 2, "protocol": "exact", "source": source}
        out = Path(values[values.index("--report") + 1]) if "--report" in values else report_path(Path(values[1]))
        out.parent.mkdir(parents=True, exist_ok=True)
        result["vr"] = {"0.001": {"vr": 0.9}}
        right = np.arange(num) % 10 > 0
        if "frozen" in values[1]:
            right[: bring.more_errors] = False
        result["acc"], result["decisions"] = float(right.mean()), {"right": pack_bits(right)}
        report = {"artifact": Path(values[1]).name, "sha256": sha256_of(Path(values[1])), "sets": {"shades": result}}
        write_json(out, report)

    def bring(*flags):
        tested.clear()
        assert export_all.main([str(run), "--valid", str(model.parent / "shades.bin"), *flags]) == 0
        return list(tested)

    monkeypatch.setattr(export_all, "run_command", stand_in)
    monkeypatch.setattr(export_all, "ROOT", model.parent)  # where no environment of a chip is
    monkeypatch.setenv("PATH", str(model.parent))
    bring.run, bring.more_errors, bring.mean_cosine = run, 0, 1.0
    return bring


def test_export_all_never_takes_a_partial_report_for_the_real_test(chain):
    quick = chain("--pairs", "20")

    assert quick and all("--pairs" in words for words in quick) and not chain("--pairs", "20")
    assert (chain.run / "export" / "pairs_20" / "export.md").is_file() and not (chain.run / "export.md").is_file()
    assert not list(chain.run.glob("*.report.json")) and not list((chain.run / "export").glob("*.report.json"))
    whole = chain()
    assert len(whole) == len(quick) and not any("--pairs" in words for words in whole) and not chain()
    assert chain("--pairs", "40")  # another number of pairs is another test
    assert json.loads(report_path(chain.run / "embedder.h5").read_text())["sets"]["shades"]["pairs"] == 60


def test_a_test_of_a_mixed_gallery_is_no_whole_test():
    result = {"source": {"sha256": "a"}, "pairs": 60, "vr": {"0.001": {}}}

    assert is_whole_test({"sets": {"lfw": result}}, "lfw", "a", [1e-3])
    assert not is_whole_test({"sets": {"lfw": result}, "gallery_model": {"name": "b"}}, "lfw", "a", [1e-3])


def gates_of(chain):
    lines = [line.split("|") for line in (chain.run / "export" / "export.md").read_text().splitlines() if "|" in line]
    return {cells[1].strip(): cells[2].strip() for cells in lines}


def test_two_pairs_of_60_fail_no_demo_but_a_release(chain):
    chain.more_errors = 3  # pairs 1 and 2: pair 0 is wrong in both

    chain()

    assert gates_of(chain)["frozen.pb"].startswith("too few pairs to tell: shades: ACC needs about")
    with pytest.raises(FaceError, match=r"artefacts did not pass.*frozen\.pb: too few pairs to tell"):
        chain("--strict")


def test_a_mean_cosine_of_0_716_did_not_pass(chain, monkeypatch):
    targets = [replace(one, min_mean_cosine=0.85) if "optimized" in one.name else one for one in export_all.TARGETS]
    monkeypatch.setattr(export_all, "TARGETS", tuple(targets))
    chain.mean_cosine = 0.716
    (chain.run / "export").mkdir()
    (chain.run / "export" / "optimized.layers.png").touch()

    with pytest.raises(FaceError, match=r"optimized\.pb: lost direction: mean cosine 0\.716, worst 0\.300, 0\.85"):
        chain()

    assert "optimized.layers.png shows where" in gates_of(chain)["optimized.pb"]
    assert (
        "![cosine of each layer of optimized.pb](optimized.layers.png)"
        in (chain.run / "export" / "export.md").read_text()
    )


def test_the_probability_goes_into_the_sidecar_as_three_numbers(larger, capsys):
    run_main(larger, "--valid", larger.parent)

    assert "shades: probability: Cllr" in capsys.readouterr().out
    found = thresholds_of(larger)["probability"]
    assert found["slope"] < 0 and found["limit"] == pytest.approx(np.log(121))
    ratio, name = read_ratio(larger, flip=False)
    assert (ratio.slope, ratio.offset, name) == (found["slope"], found["offset"], "shades")
    assert read_ratio(larger, flip=True) is None

"""export_all.py: every target in order with its gate; nothing is made twice; one table has the outcome of each."""

import json
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

import export_all
from facelib.data.readers.calibration_crops import fingerprint_of, load_crops
from facelib.data.synthetic.faces import encode_jpeg, synthetic_face
from facelib.data.verification.bins import write_bin
from facelib.errors import FaceError
from facelib.evaluation.results import report_path
from facelib.export import optimize
from facelib.files import sha256_of, write_json
from facelib.model_input import Io
from facelib.reports.export_table import find_losses, is_made, is_tested
from facelib.runtimes.keras_h5 import save_h5
from facelib.sidecar import read_sidecar, write_sidecar
from tests.helpers.random_weights import random_weights

ROOT = Path(__file__).parents[2]
NUM_PAIRS = 40
TFLITES = [f"model_{mode}.tflite" for mode in ("float", "fp16", "dynamic", "int8")]
NAMES = ["embedder.h5", "frozen.pb", "optimized.pb", *TFLITES, "model.onnx", "model_int8.onnx"]
ELSEWHERE = [
    "model.om",
    "model.kmodel",
    "model_nchw.onnx",
    "model_float.param",
    "model_fp16.param",
    "model_scaled.onnx",
    "model_int8.rknn",
    "model_fp16.rknn",
    "model_esp.onnx",
    "model_esp32s3.espdl",
    "model_esp32p4.espdl",
]  # not run here
OPEN_GATE = ("--max-acc-drop", "100", "--max-vr-drop", "100")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A run whose net is small and random, a .bin and crops; `bring` runs export_all.py on it.

    The scripts run in this process, where TensorFlow is imported once, but get the words that a shell would give them.
    The scripts of om/ and k210/ need tools that are not here: stand-ins write what those would.
    """
    from mobilefacenet import mobilefacenet

    folder = tmp_path_factory.mktemp("a toy")  # with a space in it
    run = folder / "run"
    run.mkdir()
    save_h5(random_weights(mobilefacenet(embedding_size=8, width=0.125), spread=0.5), run / "embedder.h5")
    write_sidecar(run / "embedder.h5", kind="h5", made_from=None, io=Io(), licence="none", training_data="drawn")
    images = [encode_jpeg(synthetic_face(4, k // 4, k % 2 if k < NUM_PAIRS else k), 95) for k in range(2 * NUM_PAIRS)]
    write_bin(folder / "toy.bin", images, [k < NUM_PAIRS // 2 for k in range(NUM_PAIRS)])
    return SimpleNamespace(folder=folder, run=run, export=run / "export", bin=folder / "toy.bin")


def test_kill_9_ends_the_script_that_runs_too(tmp_path):
    script = tmp_path / "long.py"
    script.write_text(
        "import os, pathlib, time\n"
        "pathlib.Path(__file__).with_name('pid').write_text(str(os.getpid()))\n"
        "time.sleep(99)\n"
    )
    code = "import sys, export_all, pathlib; export_all.run_command(sys.argv[1:], pathlib.Path('x.log'))"
    parent = subprocess.Popen([sys.executable, "-c", code, script], env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        wait_for(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text())
    finally:
        parent.kill()
        parent.wait()

    child = int((tmp_path / "pid").read_text())
    wait_for(lambda: not is_running(child))


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_running(pid):
    """Whether a process is there; one that has ended and waits for its parent is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def bring(toy, monkeypatch):
    """Runs export_all.py; returns the commands that it ran, by script."""
    ran = []

    def run_here(words, log):
        ran.append([Path(words[0]).name, *words[1:]])
        if bring.interrupt_at == words[0]:
            raise KeyboardInterrupt
        if words[0] in bring.refused:
            raise export_all.Refused(bring.refused[words[0]])
        if words[0].startswith(("om/", "k210/", "mcu/", "arm/")) or "--pairs" in words:
            return stand_in(toy, words)
        if words[0] == "report.py":  # tests of its own look at the page
            return (toy.run / "report.html").write_text("page")
        is_shell = words[0] == "optimize_pb.sh"
        main = optimize.main if is_shell else import_module(words[0].removesuffix(".py")).main
        return main(words[1:])

    def bring(*words, calibration=True, gate=OPEN_GATE):
        ran.clear()
        calibrated = ["--calibration", str(toy.bin)] if calibration else []
        assert export_all.main([str(toy.run), "--valid", str(toy.bin), *calibrated, *gate, *words]) == 0
        return ran

    bring.ran, bring.refused, bring.interrupt_at = ran, {}, None
    monkeypatch.setattr(export_all, "run_command", run_here)
    monkeypatch.setattr(export_all, "ROOT", toy.folder)  # where no k210/.venv is
    monkeypatch.setenv("PATH", str(toy.folder))  # nor atc
    return bring


def stand_in(toy, words):
    """What the scripts of om/ and k210/ leave, by design.md section 4, in place of the tools that they call."""
    script, values = words[0], words[1:]
    if script in ("om/pb_2_om.sh", "k210/tflite_2_kmodel.py"):
        out = Path(values[-1])
        out.write_bytes(f"made by {script}".encode())
        extra = {} if out.suffix == ".om" else {"calibration": load_crops(toy.bin, 5, 0)[1]}
        write_sidecar(out, kind=out.suffix[1:], made_from=Path(values[0]), io=Io(), **extra)
    if script in ("om/calculate_om_acc.py", "k210/kmodel_test.py", "tflite_test.py", "arm/arm_test.py"):
        artefact = Path(values[values.index("--model") + 1] if script.startswith("om/") else values[0])
        report = json.loads(report_path(toy.run / "embedder.h5").read_text())
        if script == "arm/arm_test.py":
            cpu = values[values.index("--cpu") + 1]
            lite = "LiteRT, XNNPACK" if artefact.suffix == ".tflite" else "ONNX Runtime, CPU"
            report |= {"executor": f"{lite} on {cpu} in QEMU", "same_bits": 0.25 if cpu == "max" else 1.0}
            report |= {"mean_cosine": 0.99999, "min_cosine": 0.9999, "ms_single": None}
        if "--pairs" in words:
            report["sets"]["toy"]["pairs"] = int(words[words.index("--pairs") + 1])
            report["sets"]["toy"]["source"]["drawn_from"] = 6000
        out = Path(values[values.index("--report") + 1]) if "--report" in values else report_path(artefact)
        write_json(out, {**report, "artifact": artefact.name, "sha256": sha256_of(artefact)})


def table_of(toy):
    """{stage: {head: cell}} of the table that was left; repeated heads are numbered."""
    lines = [line for line in (toy.export / "export.md").read_text().splitlines() if line.startswith("|")]
    heads, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    heads = [f"{head} of {heads[i - 1]}" if head == "change" else head for i, head in enumerate(heads)]
    return {row[0]: dict(zip(heads, row, strict=True)) for row in rows}


def edited(path, change):
    """A report changed by hand in its first set; returns the bytes that it had."""
    before = path.read_bytes()
    report = json.loads(before)
    change(report["sets"]["toy"])
    write_json(path, report)
    return before


@pytest.mark.slow
def test_an_interrupted_run_continues_and_a_complete_one_does_nothing(toy, bring):
    bring.interrupt_at = "pb_2_onnx.py"
    with pytest.raises(KeyboardInterrupt):
        bring()
    first = list(bring.ran)
    bring.interrupt_at = None
    (toy.export / "model_int8.tflite.json").unlink()  # as if it had been killed before this was written

    second = bring()

    export, x = str(toy.export), {name: str(toy.export / name) for name in NAMES}
    test = ["--valid", str(toy.bin), "--far", "0.001"]
    assert first[:5] == [
        ["evaluate_data.py", str(toy.run / "embedder.h5"), *test],
        ["h5_2_pb.py", str(toy.run / "embedder.h5"), "--out", x["frozen.pb"]],
        ["pb_test.py", x["frozen.pb"], *test],
        ["optimize_pb.sh", x["frozen.pb"], x["optimized.pb"]],
        ["pb_test.py", x["optimized.pb"], *test],
    ]
    assert [words[0] for words in first[5:]] == ["pb_2_tflite.py", "tflite_test.py"] * 4 + ["pb_2_onnx.py"]
    int8 = ["pb_2_tflite.py", x["optimized.pb"], "--out", x["model_int8.tflite"], "--mode", "int8"]
    assert second == [
        [*int8, "--calibration", str(toy.bin)],
        ["pb_2_onnx.py", x["optimized.pb"], "--out", x["model.onnx"]],
        ["onnx_test.py", x["model.onnx"], *test],
        [
            "pb_2_onnx.py",
            x["optimized.pb"],
            "--out",
            x["model_int8.onnx"],
            "--mode",
            "int8",
            "--calibration",
            str(toy.bin),
        ],
        ["onnx_test.py", x["model_int8.onnx"], *test],
        ["report.py", str(toy.run)],
    ]  # int8 is made again to the same bytes: its report still holds
    assert bring() == [["report.py", str(toy.run)]]
    assert (toy.run / "report.html").is_file() and not list(Path(export).glob(".*"))


@pytest.mark.slow
def test_the_table_shows_the_report_and_sidecar_of_each_artefact(toy, bring, capsys):
    bring()

    table = table_of(toy)
    assert list(table) == [Path(target.name).name for target in export_all.TARGETS]
    first = json.loads(report_path(toy.run / "embedder.h5").read_text())["sets"]["toy"]
    for name in NAMES:
        path = toy.run / name if name == "embedder.h5" else toy.export / name
        result = json.loads(report_path(path).read_text())["sets"]["toy"]
        row = table[name]
        assert float(row["MiB"]) == pytest.approx(path.stat().st_size / 2**20, abs=0.006)
        assert float(row["ACC %"]) == pytest.approx(100 * result["acc"], abs=0.006)
        if name != "embedder.h5":
            change = 100 * (result["acc"] - first["acc"])
            assert float(row["change of ACC %"]) == pytest.approx(change, abs=0.006)
            worst = read_sidecar(path).rest["parity"]["min_cosine"]
            assert float(row["worst cosine"]) == pytest.approx(worst, abs=6e-6)
            assert row["gate"] == "passed"
    assert table["embedder.h5"]["gate"] == "the reference" and table["embedder.h5"]["change of ACC %"] == "-"
    assert table["model.om"]["gate"] == "not run: atc is not on PATH" and table["model.om"]["ACC %"] == "-"
    assert table["model.kmodel"]["gate"] == "not run: k210/.venv is missing: make k210"
    assert table["model_nchw.onnx"]["gate"] == "not run: .venv-ncnn is missing: make ncnn"
    assert table["model_esp.onnx"]["gate"] == "not run: .venv-esp is missing: make esp"
    assert table["model_fp16.param"]["gate"] == "not run: see model_nchw.onnx"
    assert table["frozen.pb"]["VR@FAR=1e-3 %"] == "n/a"  # 20 impostors cannot tell
    printed = capsys.readouterr().out
    assert (toy.export / "export.md").read_text().strip() in printed and str(toy.run / "report.html") in printed


@pytest.mark.slow
def test_an_artefact_that_lost_too_much_is_named_and_the_others_are_made(toy, bring):
    bring()
    path = report_path(toy.export / "model_int8.tflite")
    acc = json.loads(report_path(toy.export / "optimized.pb").read_text())["sets"]["toy"]["acc"]
    before = edited(path, lambda result: result.update(acc=acc - 0.1, decisions=None))
    (toy.export / "model.onnx").unlink()

    with pytest.raises(
        FaceError,
        match=rf"\d of {len(export_all.TARGETS)} .*model_int8\.tflite: lost toy: ACC .*10\.00 points lost, 9 al",
    ):
        bring(gate=("--max-acc-drop", "9", "--max-vr-drop", "100"))

    path.write_bytes(before)
    row = table_of(toy)["model_int8.tflite"]
    assert row["gate"].startswith("lost toy: ACC") and row["gate"].endswith("(optimized.pb)")
    assert table_of(toy)["model.onnx"]["ACC %"] != "-" and (toy.export / "model.onnx").is_file()


def test_small_losses_in_a_row_add_up_against_the_h5(tmp_path):
    for name, acc in (("embedder.h5", 0.99), ("optimized.pb", 0.986), ("model.tflite", 0.982)):
        sets = {"lfw": {"pairs": 10, "genuine": 5, "acc": acc, "vr": {"0.001": {"vr": acc}}}}
        write_json(report_path(tmp_path / name), {"artifact": name, "sets": sets})
    h5, pb, tflite = (report_path(tmp_path / name) for name in ("embedder.h5", "optimized.pb", "model.tflite"))

    assert find_losses(pb, [h5, h5], 0.5, 2) == ([], [])
    (loss,), _ = find_losses(tflite, [pb, h5], 0.5, 2)
    assert loss == "lfw: ACC 98.20 % against 99.00 %: 0.80 points lost, 0.5 allowed (embedder.h5)"
    assert find_losses(tflite, [pb, h5], 0.8, 2) == ([], [])


def test_a_report_counts_only_for_its_file_sets_and_rates(tmp_path):
    artefact = tmp_path / "model.onnx"
    artefact.write_bytes(b"a model")
    result = {"acc": 0.9, "protocol": "exact", "source": {"sha256": "ab"}, "vr": {"0.001": {"vr": 0.5}}}
    report = {"sha256": sha256_of(artefact), "flip": False, "sets": {"lfw": result}}

    def is_right(sets=None, fars=(1e-3,), **changes):
        write_json(report_path(artefact), {**report, **changes})
        return is_tested(artefact, sets or {"lfw": "ab"}, fars)

    assert not is_tested(artefact, {"lfw": "ab"}, (1e-3,)) and is_right()
    assert not is_right(sets={"lfw": "cd"}) and not is_right(sets={"lfw": "ab", "cfp_fp": "ef"})
    assert not is_right(fars=(1e-3, 1e-4)) and not is_right(flip=True) and not is_right(sha256="0" * 64)
    report_path(artefact).write_text("{")
    assert not is_tested(artefact, {"lfw": "ab"}, (1e-3,))


@pytest.mark.slow
def test_an_artefact_of_another_parent_is_made_again(toy, bring):
    bring()
    sidecar = toy.export / "optimized.pb.json"
    value = json.loads(sidecar.read_text())
    value["made_from"]["sha256"] = "0" * 64
    write_json(sidecar, value)

    assert [words[0] for words in bring()] == ["optimize_pb.sh", "report.py"]  # to the same bytes
    int8, pb = toy.export / "model_int8.tflite", toy.export / "optimized.pb"
    assert is_made(int8, pb, fingerprint_of(toy.bin)) and not is_made(int8, pb, "of other crops")
    assert is_made(int8, pb) and not is_made(int8, toy.export / "frozen.pb")


@pytest.mark.slow
def test_a_script_that_fails_stops_only_what_needs_it(toy, bring):
    bring()
    bring.refused["pb_2_onnx.py"] = "This graph has an op without a name."
    bring.refused["pb_test.py"] = "No room."
    (toy.export / "model.onnx").unlink()
    kept = report_path(toy.export / "optimized.pb").read_bytes()

    with pytest.raises(
        FaceError,
        match=rf"1 of {len(export_all.TARGETS)} .*model\.onnx: failed: This graph has an op without a name\.$",
    ):
        bring()
    assert table_of(toy)["model.onnx"]["gate"] == "failed: This graph has an op without a name."
    report_path(toy.export / "optimized.pb").unlink()
    with pytest.raises(FaceError, match=r"optimized\.pb: failed: No room\.$"):
        bring()

    report_path(toy.export / "optimized.pb").write_bytes(kept)
    gates = {name: row["gate"] for name, row in table_of(toy).items()}
    assert gates["frozen.pb"] == "passed" and gates["model.onnx"] == "not run: see optimized.pb"
    assert gates["model.kmodel"] == "not run: see model_float.tflite"


@pytest.mark.slow
def test_without_crops_int8_is_left_out(toy, bring):
    bring()
    ran = bring(calibration=False)

    assert ran == [["report.py", str(toy.run)]]
    assert table_of(toy)["model_int8.tflite"]["gate"] == "not run: pass --calibration DATA"


@pytest.mark.slow
def test_ascend_and_k210_run_if_their_tools_are_there(toy, bring):
    bring()
    for name in ("atc", "msame"):
        (toy.folder / name).write_text("#!/bin/sh\n")
        (toy.folder / name).chmod(0o755)
    (toy.folder / "k210" / ".venv").mkdir(parents=True)
    (toy.folder / "k210" / ".venv" / "ready").touch()

    bring.refused["k210/check_k210.py"] = "The K210 cannot run PReLU."
    ran = bring()

    valid, far = ["--valid", str(toy.bin)], ["--far", "0.001"]
    om, kmodel, pb, tflite = (
        str(toy.export / name) for name in ("model.om", "model.kmodel", "optimized.pb", "model_float.tflite")
    )
    assert ran[:-2] == [
        ["pb_2_om.sh", pb, om],
        ["image2bin.py", str(toy.bin), f"{om}.inputs", "--model", om],
        ["om_eval.sh", om, f"{om}.inputs", f"{om}.outputs"],
        ["calculate_om_acc.py", f"{om}.outputs", str(toy.bin), "--model", om, "--far", "0.001"],
    ]
    table = table_of(toy)
    assert table["model.om"]["gate"] == "passed"
    assert table["model.kmodel"]["gate"] == "not run: The K210 cannot run PReLU."

    bring.refused.clear()
    assert bring()[:-1] == [
        ["check_k210.py", tflite],
        ["tflite_2_kmodel.py", tflite, "--calibration", str(toy.bin), "--out", kmodel],
        ["tflite_test.py", tflite, *valid, "--pairs", "600", *far, "--report", f"{kmodel}.parent.json"],
        ["kmodel_test.py", kmodel, *valid, "--pairs", "600", *far],
    ]
    row = table_of(toy)["model.kmodel"]
    assert row["gate"] == "passed" and row["change of ACC %"] == "-"
    assert "model.kmodel: 600 pairs" in (toy.export / "export.md").read_text()
    assert [words[0] for words in bring()] == ["report.py"]

    before = edited(Path(f"{kmodel}.parent.json"), lambda result: result.update(acc=result["acc"] + 0.1))
    with pytest.raises(FaceError, match=r"model\.kmodel: lost toy: ACC .*10\.00 points .*\(model_float\.tflite\)"):
        bring(gate=("--max-acc-drop", "9", "--max-vr-drop", "100"))
    Path(f"{kmodel}.parent.json").write_bytes(before)


@pytest.mark.slow
def test_with_arm_each_file_is_tested_on_each_emulated_cpu(toy, bring):
    """The stand-in for arm_test.py gives other bits on the CPU max."""
    assert all(".cortex-a53" not in name for name in table_of_a_run(toy, bring))
    assert table_of_a_run(toy, bring, "--arm")["model_int8.tflite.max"]["gate"] == (
        "not run: .venv-arm is missing: make arm"
    )
    (toy.folder / ".venv-arm").mkdir()
    (toy.folder / ".venv-arm" / "ready").touch()

    table = table_of_a_run(toy, bring, "--arm")

    ran = [words for words in bring.ran if words[0] == "arm_test.py"]
    rows = {name: row for name, row in table.items() if name.endswith(("a53", "a76", ".max"))}
    assert list(rows) == [f"{name}.{cpu}" for name in NAMES[3:] for cpu in ("cortex-a53", "cortex-a76", "max")]
    assert len(ran) == len(rows) and ran[9][1:] == [
        str(toy.export / "model_int8.tflite"), "--cpu", "cortex-a53", "--valid", str(toy.bin), "--pairs", "600",
        "--far", "0.001", "--min-cosine", "0.98",
        "--report", str(toy.export / "model_int8.tflite.cortex-a53.report.json"),
    ]  # fmt: skip
    assert {words[words.index("--pairs") + 1] for words in ran if "int8.tflite" not in words[1]} == {"20"}  # the fewest
    row = rows["model_float.tflite.cortex-a76"]
    assert row["gate"] == "passed; same bits" and row["executor"] == "LiteRT, XNNPACK on cortex-a76 in QEMU"
    assert (row["mean cosine"], row["ms"]) == ("0.99999", "-")
    assert rows["model.onnx.max"]["gate"] == "passed; same bits on 25 % of the faces"
    table_of_a_run(toy, bring, "--arm")
    assert [words[0] for words in bring.ran] == ["report.py"]  # nothing is tested twice
    (toy.folder / ".venv-arm" / "ready").unlink()


def table_of_a_run(toy, bring, *words):
    bring(*words)
    return table_of(toy)


@pytest.mark.slow
def test_a_test_that_failed_after_its_report_does_not_count_as_passed(toy, bring):
    bring()
    path = report_path(toy.export / "model.onnx")
    kept = path.read_bytes()
    edited(path, lambda result: result["source"].update(sha256="0" * 64))
    bring.refused["onnx_test.py"] = "Mean cosine 0.5."

    for _ in range(2):
        with pytest.raises(FaceError, match=r"model\.onnx: failed: Mean cosine 0\.5\.$"):
            bring()
        assert not path.exists()
    path.write_bytes(kept)


@pytest.mark.slow
def test_a_gate_that_cannot_compare_fails_one_artefact(toy, bring):
    path = report_path(toy.export / "model.onnx")
    bring()
    kept = edited(path, lambda result: result.update(pairs=result["pairs"] + 2))

    with pytest.raises(
        FaceError,
        match=rf"^1 of {len(export_all.TARGETS)} .*model\.onnx: failed: The gate can compare only tests",
    ):
        bring()
    path.write_bytes(kept)


def test_a_shell_script_gets_this_python(capfd, tmp_path):
    with pytest.raises(export_all.Refused, match=r"^No frozen graph at 'missing\.pb'"):
        export_all.run_command(["optimize_pb.sh", "missing.pb"], tmp_path / "log")

    assert capfd.readouterr().out.startswith("$ ./")


def test_a_command_is_one_line_and_its_log_is_named_when_it_fails(capfd, tmp_path):
    log = tmp_path / "logs" / "x.log"
    with pytest.raises(export_all.Refused, match=r"^No model at 'missing file\.h5'"):
        export_all.run_command(["h5_2_pb.py", "missing file.h5"], log)

    printed = capfd.readouterr()
    lines = printed.out.splitlines()
    assert len(lines) == 2 and lines[0].startswith("$ python ") and "h5_2_pb.py 'missing file.h5'   " in lines[0]
    assert lines[1].startswith("failed: No model at 'missing file.h5'") and lines[1].endswith(str(log))
    assert log.read_text(encoding="utf-8").startswith("error: No model at 'missing file.h5'") and not printed.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--valid", "toy.bin"], "No trained embedder"),
        (["--max-vr-drop", "-1"], "percentage points"),
    ],
)
def test_impossible_requests_are_refused_before_anything_runs(tmp_path, words, message):
    with pytest.raises(FaceError, match=message):
        export_all.main([str(tmp_path), *words])
    assert not list(tmp_path.iterdir())


def test_a_missing_set_is_one_line(toy):
    with pytest.raises(FaceError):
        export_all.main([str(toy.run), "--valid", str(toy.folder / "nothing.bin")])


def test_every_command_names_a_script_of_the_project():
    root = Path(export_all.__file__).parent
    scripts = {line.split()[0] for target in export_all.TARGETS for line in (*target.make, *target.test, *target.fits)}
    ours = {
        script
        for script in scripts
        if not script.startswith(("om/", "k210/", "mcu/")) or (root / script).parent.is_dir()
    }

    assert {"pb_test.py", "optimize_pb.sh"} < ours
    assert [script for script in sorted(ours) if not (root / script).is_file()] == []

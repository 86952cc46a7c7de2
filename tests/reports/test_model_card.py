"""The model card: read back by huggingface_hub and by PyYAML, its figures those of reports and sidecars."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import model_card
from facelib.errors import FaceError
from facelib.files import sha256_of
from facelib.model_input import Io
from facelib.reports.front_matter import front_matter, licence_keys
from facelib.reports.model_card import render_card
from facelib.reports.read_run import read_run
from facelib.sidecar import sidecar_path, write_sidecar
from tests.helpers.simulated_runs import ARTEFACTS, build_run, write_faces

NASTY = 'faces | of <b>people</b>\n---\nlicense: mit\n# "quoted": `x`'


def describe(run, name, **changes):
    """Writes an artefact and its sidecar, and puts its hash into its report."""
    artefact = run / name
    artefact.write_bytes(name.encode())
    report_file = run / f"{name}.report.json"
    report = json.loads(report_file.read_text())
    sha256 = sha256_of(artefact)
    report_file.write_text(json.dumps({**report, "sha256": sha256}))
    toy = report["sets"]["toy"]
    thresholds = {"toy": {"impostors": 100, "flip": False, "date": "2026-11-28", "far": toy["thresholds"]}}
    facts = {"thresholds": thresholds, **changes}
    write_sidecar(artefact, kind="h5", made_from=None, io=Io(embedding_size=128), **facts)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A run with three tested artefacts; the first has a sidecar with thresholds."""
    faces = tmp_path_factory.mktemp("faces")
    write_faces(faces)
    run = build_run(tmp_path_factory.mktemp("built") / "run", faces, has_folder_set=True)
    describe(run, "embedder.h5", licence="MIT", training_data=NASTY)
    return run


@pytest.fixture
def run(built, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(built, tmp_path / "run"))


def metadata_of(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_the_card_is_written_with_the_figures_of_the_reports(run, capsys):
    assert model_card.main([str(run)]) == 0

    card = (run / "README.md").read_text()
    report = json.loads((run / "embedder.h5.report.json").read_text())
    found = metadata_of(card)
    assert found["license"] == "mit" and found["model-index"][0]["name"] == "run"
    by_set = {one["dataset"]["name"]: one["metrics"] for one in found["model-index"][0]["results"]}
    for name, result in report["sets"].items():
        values = {metric["name"]: metric["value"] for metric in by_set[name]}
        assert (values["ACC"], values["AUC"]) == (result["acc"], result["auc"])
        resolved = {far: vr["vr"] for far, vr in result["vr"].items() if vr["vr"] is not None}
        assert {key.removeprefix("VR at FAR "): value for key, value in values.items() if "VR" in key} == resolved
        low, high = (f"{100 * end:.2f}" for end in result["acc_ci95"])
        assert f"{100 * result['acc']:.2f} % [{low}, {high}]" in card
    for far, chosen in report["sets"]["toy"]["thresholds"].items():
        assert re.search(rf"\| {far} +\| +{chosen['distance']:.4f} +\| +{chosen['cosine']:.4f} ", card)
    assert "date 2026-11-28" in card and "an embedding of 128 values" in card
    assert all(f"`{name.split('/')[-1]}`" in card for name in ARTEFACTS)
    assert "`frozen.pb` has no thresholds of its own" in card
    needs = report["sets"]["toy"]["vr"]["0.0001"]["needs_impostors"]
    assert f"n/a (needs {needs:,} impostor pairs) at FAR 0.0001" in card
    assert "Nothing is known of a FAR below 0.01 on toy: it has 100 impostor pairs." in card
    assert "Groups of people were measured in: people (even, odd \\<ones\\>)" in card
    assert f"wrote {run / 'README.md'}" in capsys.readouterr().out


def test_text_of_a_sidecar_stays_text(run):
    card, _ = render_card(read_run(run))

    assert card.count("\n---\n") == 1 and metadata_of(card)["license"] == "mit"
    line = next(line for line in card.splitlines() if line.startswith("- Training data:"))
    assert "faces \\| of \\<b\\>people\\</b\\>" in line and "license: mit" in line  # all of it in one line


@pytest.mark.needs_tool("huggingface_hub")
def test_huggingface_hub_reads_the_card(run):
    from huggingface_hub import ModelCard

    model_card.main([str(run)])
    data = ModelCard.load(run / "README.md").data

    report = json.loads((run / "embedder.h5.report.json").read_text())
    assert (data.license, data.library_name, data.model_name) == ("mit", "mobilearc", "run")
    assert {"face-recognition", "mobilearc"} <= set(data.tags)
    acc = {one.dataset_name: one.metric_value for one in data.eval_results if one.metric_type == "accuracy"}
    assert acc == {name: result["acc"] for name, result in report["sets"].items()}


def test_what_changed_after_its_test_is_left_out_and_named(run, capsys):
    describe(run, "export/frozen.pb")
    (run / "export" / "frozen.pb").write_bytes(b"another")

    model_card.main([str(run)])

    assert "`frozen.pb`" not in (run / "README.md").read_text()
    assert "frozen.pb changed after its test and is not in the card" in capsys.readouterr().out


def test_a_run_without_a_valid_report_is_refused(run):
    for name in ARTEFACTS[:2]:
        (run / f"{name}.report.json").unlink()
    (run / "embedder.h5").write_bytes(b"another")

    with pytest.raises(FaceError, match=r"embedder\.h5 changed after the test"):
        model_card.main([str(run)])
    assert not (run / "README.md").exists()


def test_a_readme_written_by_hand_is_kept_and_a_card_is_replaced(run):
    (run / "README.md").write_text("mine")
    with pytest.raises(FaceError, match="did not write"):
        model_card.main([str(run)])
    assert (run / "README.md").read_text() == "mine"

    (run / "README.md").unlink()
    assert [model_card.main([str(run)]) for _ in range(2)] == [0, 0]


def test_an_unknown_licence_is_no_key_and_is_said(run):
    sidecar = sidecar_path(run / "embedder.h5")
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "licence": None, "training_data": None}))

    card, _ = render_card(read_run(run))

    assert "license" not in metadata_of(card)
    assert "Licence of the weights: not recorded" in card and "Training data: not recorded" in card


def test_folders_of_this_machine_stay_private_and_the_parity_of_a_conversion_is_shown(run):
    data = {"source": str(run / "secret" / "ms1m"), "num_images": 7}
    parity = {"faces": 9, "min_cosine": 0.91, "mean_cosine": 0.98765}
    describe(run, "embedder.h5", training_data=data, parity=parity)

    card, _ = render_card(read_run(run))

    assert "- Training data: source: ms1m, num\\_images: 7" in card and "secret" not in card
    assert "0.9877 (worst 0.9100)" in card


def test_licences_are_identifiers_of_the_hub_or_have_a_name():
    assert licence_keys("Apache 2.0") == {"license": "apache-2.0"} and licence_keys(" ") == {}
    assert licence_keys("Non-commercial research only!") == {
        "license": "other",
        "license_name": "non-commercial-research-only",
    }


values = st.recursive(
    st.text() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans(),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(st.text(), inner, min_size=1, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), values, min_size=1, max_size=4))
def test_yaml_gives_back_every_value(content):
    text = front_matter(content)

    assert text.startswith("---\n") and text.endswith("---\n")
    assert yaml.safe_load(text[4:-4]) == content

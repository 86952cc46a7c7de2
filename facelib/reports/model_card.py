"""A Hugging Face model card (README.md) of a run, from the sidecars and reports of its artefacts and nothing else."""

import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from facelib import __version__
from facelib.errors import FaceError
from facelib.evaluation.results import format_markdown_table
from facelib.evaluation.set_means import format_means, mean_of_sets
from facelib.evaluation.thresholds import best_set, calibration_set, sets_of
from facelib.reports.front_matter import front_matter, licence_keys
from facelib.reports.read_run import Artefact, Run
from facelib.sidecar import Sidecar, read_sidecar
from facelib.wording import printable

MADE_BY = "<!-- made by MobileArc's model_card.py; made anew by the same command -->"
NOT_RECORDED = "not recorded in the sidecar"


@dataclass(frozen=True)
class Tested:
    """An artefact that is as it was tested.

    Attributes:
        name: file name.
        report: content of its report.
        sidecar: None where it has none.
    """

    name: str
    report: dict[str, Any]
    sidecar: Sidecar | None


def render_card(run: Run) -> tuple[str, list[str]]:
    """The text of the card, and notes on what is not in it.

    Args:
        run: a run directory.

    Raises:
        FaceError: no artefact is as it was tested.
    """
    tested = [found for artefact in run.artefacts if (found := _tested(artefact))]
    changed = [artefact.name for artefact in run.artefacts if artefact.name not in {one.name for one in tested}]
    if not tested:
        state = f"{', '.join(changed)} changed after the test" if changed else "there is no report"
        raise FaceError(
            f"A model card needs a tested artefact. In '{run.path}' {state}. Test an artefact: python "
            f"evaluate_data.py {run.path}/embedder.h5."
        )
    name, main = run.path.resolve().name, tested[0]
    parts = [
        front_matter(_metadata(name, tested)),
        MADE_BY,
        f"# {_text(name)}",
        _summary(main),
        "## Use",
        _use(main),
        "## Figures",
        _figures(tested),
        *_ijb(run),
        *_tinyface(run),
        "## Thresholds",
        _thresholds(tested),
        "## Training data and licence",
        _origin(tested),
        "## Limits",
        _limits(tested, bool(run.ijb)),
    ]
    notes = [f"{name} changed after its test and is not in the card: test it again" for name in changed]
    return "\n\n".join(part.strip() for part in parts) + "\n", notes


def _tested(artefact: Artefact) -> Tested | None:
    sidecar = read_sidecar(artefact.folder / artefact.name)
    sha256 = artefact.report.get("sha256")
    if artefact.is_stale or (sidecar and sha256 and sidecar.sha256 != sha256):
        return None
    return Tested(artefact.name, artefact.report, sidecar)


def _metadata(name: str, tested: list[Tested]) -> dict[str, Any]:
    """The front matter: `model-index` holds the figures of the first artefact."""
    main, results = tested[0], []
    for set_name, result in main.report["sets"].items():
        metrics = [{"type": "accuracy", "name": "ACC", "value": result["acc"]}]
        metrics += [{"type": "roc_auc", "name": "AUC", "value": result["auc"]}] if result.get("auc") is not None else []
        metrics += [
            {"type": "tar", "name": f"VR at FAR {far}", "value": vr["vr"]}
            for far, vr in (result.get("vr") or {}).items()
            if vr.get("vr") is not None
        ]
        task = {"type": "face-verification", "name": "Face verification (1:1)"}
        results.append({"task": task, "dataset": {"type": set_name, "name": set_name}, "metrics": metrics})
    return {
        **licence_keys(_first(tested, "licence")),
        "library_name": "mobilearc",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["face-recognition", "face-verification", "mobilearc", *sorted({_kind(one) for one in tested})],
        "model-index": [{"name": name, "results": results}],
    }


def _summary(main: Tested) -> str:
    size = main.sidecar.io.embedding_size if main.sidecar else 0
    values = f"{size} values" if size else "a vector"
    return (
        f"A face recognition network: an aligned crop of one face becomes an embedding of {values}. Two embeddings "
        "are compared; the network knows no names and finds no faces in a photo."
    )


def _use(main: Tested) -> str:
    if not main.sidecar:
        return f"How to feed {_code(main.name)} is {NOT_RECORDED}: it has none."
    io, template = main.sidecar.io, main.sidecar.rest.get("template")
    scaling = (main.sidecar.rest.get("pixel_scaling") or {}) if io.pixels != "raw" else {}
    lines = [
        f"- {_code(main.name)} takes {io.size[0]}x{io.size[1]} pixels, {io.colour.upper()}, {io.layout.upper()}, "
        f"{io.dtype}, scaled as `{io.pixels}`"
        + (f": (x - {scaling['mean']}) / {scaling['std']} of pixels 0 to 255." if scaling else "."),
        "- Divide each embedding by its L2 norm. The distance is the squared L2 between the two, 0 to 4; cosine = 1 - "
        "distance / 2. A pair is accepted at a distance of at most the threshold.",
    ]
    if template:
        points = ", ".join(f"({x:g}, {y:g})" for x, y in template)
        lines.append(f"- Align by five points (eyes, nose, mouth corners) to {points} in a 112x112 crop.")
    lines.append(f"- `python predict.py --model {main.name} A.jpg B.jpg` of MobileArc does all of this.")
    return "\n".join(lines)


def _figures(tested: list[Tested]) -> str:
    """A table of the sets for each artefact, with 95 % intervals, and the mean as papers print it."""
    files = [("file", "kind", "MiB", "ms an image", "mean cosine to its parent", "SHA-256")]
    rows = [("file", "set", "pairs", "protocol", "ACC", "VR (1 - FNMR)", "AUC", "EER")]
    means = []
    for one in tested:
        report = one.report
        size = report.get("size_bytes")
        files.append((f"{_code(one.name)}", _kind(one), f"{size / 2**20:.2f}" if size else "-",
                      _number(report.get("ms_per_image"), "{:.2f}"), _cosine(one),
                      f"`{report['sha256'][:16]}`" if report.get("sha256") else "-"))  # fmt: skip
        for name, result in report["sets"].items():
            rows.append((f"{_code(one.name)}", _text(name), _pairs(result), str(result.get("protocol") or "-")
                         + (", flip" if report.get("flip") else ""), _rate(result["acc"], result.get("acc_ci95")),
                         _vr(result), _number(result.get("auc"), "{:.5f}"), _rate(result.get("eer"))))  # fmt: skip
        acc = {name: result["acc"] for name, result in report["sets"].items() if result.get("protocol") != "all-pairs"}
        mean = format_means(mean_of_sets(acc))
        means += [f"- {_code(one.name)}: {line}" for line in mean.splitlines()]
    note = (
        "In brackets: 95 % intervals, by resampling the folds or people of a set. FAR is the false match rate (FMR) "
        "of ISO/IEC 19795-1."
    )
    tables = [format_markdown_table(files, num_left=2), format_markdown_table(rows, num_left=4), note]
    return "\n\n".join([*tables, *(["\n".join(means)] if means else [])])


def _ijb(run: Run) -> list[str]:
    """Sections of IJB-B and IJB-C."""
    rows = [("file", "set", "FAR (FMR)", "TAR (1 - FNMR)")]
    for artefact in run.ijb:
        found = artefact.report.get("verification") or {}
        label = (
            f"{artefact.report.get('set')}, {'nearest FAR' if found.get('rule') == 'nearest' else 'FAR not exceeded'}"
        )
        rows += [
            (f"{_code(artefact.name)}", label, far, _rate(vr.get("vr"), vr.get("ci95")))
            for far, vr in (found.get("vr") or {}).items()
            if not artefact.is_stale
        ]
    return ["### IJB, 1:1", format_markdown_table(rows, num_left=2)] if len(rows) > 1 else []


def _tinyface(run: Run) -> list[str]:
    """The section of TinyFace."""
    rows = [("file", "probes", "gallery images", "rank", "found")]
    for artefact in run.tinyface:
        report = artefact.report
        size = f"{report.get('gallery', 0) + report.get('distractors', 0):,}"
        rows += [
            (_code(artefact.name), f"{report.get('probes', 0):,}", size, k, _rate(rate["rate"], rate.get("ci95")))
            for k, rate in report["rank"].items()
            if not artefact.is_stale
        ]
    return ["### TinyFace, 1:N", format_markdown_table(rows, num_left=1)] if len(rows) > 1 else []


def _thresholds(tested: list[Tested]) -> str:
    parts = []
    for one in tested:
        sets = sets_of(one.sidecar)
        if not sets or one.sidecar is None:
            parts.append(
                f"{_code(one.name)} has no thresholds of its own. Do not use the thresholds of another file for it."
            )
            continue
        name = best_set(sets, calibration_set(one.sidecar))
        entry = sets[name]
        rows = [("FAR (FMR)", "squared L2 at most", "cosine at least", "VR (1 - FNMR)", "true FAR, 95 %")]
        for far, chosen in entry["far"].items():
            low, high = chosen.get("far_ci95") or (None, None)
            rows.append((far, f"{chosen['distance']:.4f}", f"{chosen['cosine']:.4f}",
                         _rate(chosen.get("vr"), chosen.get("vr_ci95")),
                         "-" if low is None else f"{low:.2g} to {high:.2g}"))  # fmt: skip
        facts = [f"set {_text(name)}", f"{entry['impostors']:,} impostor pairs"]
        facts += ["both faces mirrored and added"] if entry.get("flip") else []
        facts += [f"{key} {_text(str(entry[key]))}" for key in ("protocol", "date", "executor") if entry.get(key)]
        table = format_markdown_table(rows, num_left=1) if len(rows) > 1 else "The set is too small for any threshold."
        parts.append(f"{_code(one.name)} ({', '.join(facts)}):\n\n{table}")
    return "\n\n".join(parts)


def _origin(tested: list[Tested]) -> str:
    licence, data = _first(tested, "licence"), _first(tested, "training_data")
    made = next((one.sidecar.rest.get("made_by") for one in tested if one.sidecar), None) or {}
    version = _text(str((made.get("versions") or {}).get("mobilearc", "of unknown version")))
    commit = f", commit {_text(made['git_commit'])}" if made.get("git_commit") else ""
    return "\n".join([
        f"- Training data: {_text(_as_text(data)) if data else NOT_RECORDED}",
        f"- Licence of the weights: {_text(licence) if licence else NOT_RECORDED}",
        f"- Made with MobileArc {version}{commit}; this card by MobileArc {__version__}.",
        "- Most public face sets are for research only, and so are models trained on them. Faces are personal data.",
    ])  # fmt: skip


def _limits(tested: list[Tested], has_ijb: bool) -> str:
    main, lines = tested[0], []
    for name, result in main.report["sets"].items():
        impostors = result["pairs"] - result["genuine"] if result.get("pairs") and "genuine" in result else 0
        if impostors:
            lines.append(
                f"Nothing is known of a FAR below {1 / impostors:.2g} on {_text(name)}: it has {impostors:,} impostor "
                "pairs."
            )
        if drawn := (result.get("source") or {}).get("drawn_from"):
            lines.append(f"{_text(name)} was tested on {result['pairs']:,} of its {drawn:,} pairs only.")
    groups = {name: list(result["groups"]) for name, result in main.report["sets"].items() if result.get("groups")}
    rfw = [name for name in main.report["sets"] if name.lower().startswith("rfw_")]
    if groups or rfw:
        measured = [f"{_text(name)} ({', '.join(map(_text, of))})" for name, of in groups.items()] + list(
            map(_text, rfw)
        )
        lines.append(f"Groups of people were measured in: {'; '.join(measured)}. Others were not.")
    else:
        lines.append("Differences between groups of people (age, sex, origin) were not measured.")
    if not has_ijb:
        lines.append("IJB-B and IJB-C were not measured.")
    lines += [
        "The figures hold for photos like those of the sets. Measure the thresholds on photos of your own cameras.",
        "People of the training data may be in the sets, unless the training data says otherwise.",
        "The network cannot tell a living face from a photo of a face.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _first(tested: list[Tested], key: str) -> Any:
    """The first recorded value of an attribute of the sidecars."""
    return next((value for one in tested if one.sidecar and (value := getattr(one.sidecar, key))), None)


def _kind(one: Tested) -> str:
    return str(one.report.get("kind") or (one.sidecar.kind if one.sidecar else "unknown"))


def _cosine(one: Tested) -> str:
    """'0.9987 (worst 0.9712)': of the test beside the parent, else of the conversion."""
    parity = one.sidecar.rest.get("parity") if one.sidecar else None
    found = one.report if one.report.get("mean_cosine") is not None else parity or {}
    worst = f" (worst {found['min_cosine']:.4f})" if found.get("min_cosine") is not None else ""
    return _number(found.get("mean_cosine"), "{:.4f}") + worst


def _pairs(result: dict[str, Any]) -> str:
    drawn = (result.get("source") or {}).get("drawn_from")
    return f"{result['pairs']:,}" + (f" of {drawn:,}" if drawn else "") if result.get("pairs") else "-"


def _vr(result: dict[str, Any]) -> str:
    """'98.47 % [98.01, 98.83] at FAR 0.001; ...', with why there is no figure."""
    cells = []
    for far, vr in (result.get("vr") or {}).items():
        needs = vr.get("needs_impostors")
        missing = f"n/a (needs {needs:,} impostor pairs)" if needs else "n/a"
        rate = missing if vr.get("vr") is None else _rate(vr["vr"], vr.get("ci95"))
        cells.append(f"{rate} at FAR {far}")
    return "; ".join(cells) or "-"


def _rate(value: float | None, ci95: list[float] | None = None) -> str:
    if value is None:
        return "n/a"
    interval = f" [{100 * ci95[0]:.2f}, {100 * ci95[1]:.2f}]" if ci95 else ""
    return f"{100 * value:.2f} %{interval}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_as_text(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_as_text, value))
    is_path = isinstance(value, str) and "\n" not in value and PurePath(value).is_absolute()
    return PurePath(value).name if is_path else str(value)  # a card is public; where the data lie is not


def _code(text: str) -> str:
    """A file name as code."""
    shown = printable(text).replace("`", "'").replace("|", "\\|")
    return f"`{shown}`"


def _text(text: str) -> str:
    """Text of a sidecar that cannot become markup: one line, without the characters of Markdown tables and HTML."""
    return re.sub(r"[|<>`\[\]*_\\]", lambda found: "\\" + found[0], printable(text))

"""The results of a test: the printed table and the report file X.report.json, from the same numbers; text tables."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facelib.errors import FaceError
from facelib.evaluation.metrics import OperatingPoint
from facelib.evaluation.paired import pack_bits
from facelib.evaluation.set_means import format_means, mean_of_sets
from facelib.evaluation.ten_fold import FoldAccuracy, FoldTar
from facelib.files import read_json, write_json
from facelib.json_schema import check_json
from facelib.wording import printable

SCHEMA = Path(__file__).with_name("report.schema.json")  # of report files; docs/report.md is made from it
HISTOGRAM_EDGES = np.linspace(0.0, 4.0, 81)  # squared L2 of unit vectors, steps of 0.05


@dataclass(frozen=True)
class SetResult:
    """The measures of one verification set, made by `evaluate_set`.

    Rates are fractions, distances are squared L2 of unit vectors. The dictionaries are those of docs/report.md. What
    was not measured is None.

    Attributes:
        name: name of the set.
        pairs: number of pairs.
        genuine: number of genuine pairs.
        protocol: 'exact' | 'insightface' | 'keras_insightface' | 'all-pairs'.
        accuracy: accuracy over folds.
        auc: area under the ROC.
        eer: equal error rate.
        vr: VR over folds, one for each FAR asked for.
        vr_all_pairs: VR of the whole set at the same FARs; None where the set has too few impostor pairs.
        thresholds: {FAR: threshold for deployment}.
        dist_max: largest distance.
        dist_min: smallest distance.
        roc: points of the ROC with intervals.
        histogram: distances of genuine and impostor pairs in bins.
        hardest: the worst false accepts and false rejects.
        source: where the set was read from.
        norms: errors by the smaller norm of a pair.
        groups: results by group.
        identification: open-set search among the faces of a folder.
        identities: counts of a folder.
        by_identity: the worst identities of a folder, and who is taken for whom.
        probability: from a distance to a probability, and how good it is; None for too few pairs.
    """

    name: str
    pairs: int
    genuine: int
    protocol: str
    accuracy: FoldAccuracy
    auc: float
    eer: float
    vr: tuple[FoldTar, ...]
    vr_all_pairs: tuple[OperatingPoint | None, ...]
    thresholds: dict[str, dict[str, Any]]
    dist_max: float
    dist_min: float
    roc: dict[str, list[float]]
    histogram: dict[str, list]
    hardest: dict[str, list]
    source: dict[str, Any] | None = None
    norms: dict[str, list] | None = None
    groups: dict[str, Any] | None = None
    identification: dict[str, Any] | None = None
    identities: dict[str, Any] | None = None
    by_identity: dict[str, Any] | None = None
    probability: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON values; what a set cannot resolve is null."""
        vr = {}
        for fold, whole in zip(self.vr, self.vr_all_pairs, strict=True):
            vr[f"{fold.far_target:g}"] = {
                "vr": fold.tar,
                "vr_std": fold.tar_std,
                "far": fold.far,
                "ci95": list(fold.ci95) if fold.ci95 else None,
                "threshold": _finite(fold.threshold),
                "vr_all_pairs": whole and whole.tar,
                "threshold_all_pairs": _finite(whole.threshold) if whole else None,
                "needs_impostors": fold.needs_impostors,
            }
        decisions = self._decisions()
        optional = ("source", "norms", "groups", "identification", "identities", "by_identity", "probability")
        return {
            "protocol": self.protocol,
            "pairs": self.pairs,
            "genuine": self.genuine,
            "acc": self.accuracy.mean,
            "acc_std": self.accuracy.std,
            "acc_ci95": list(self.accuracy.ci95),
            "acc_folds": self.accuracy.accuracies.tolist(),
            "acc_threshold": _finite(float(self.accuracy.thresholds.mean())),
            "auc": self.auc,
            "eer": self.eer,
            "vr": vr,
            "thresholds": self.thresholds,
            "dist_max": self.dist_max,
            "dist_min": self.dist_min,
            "roc": self.roc,
            "histogram": self.histogram,
            "hardest": self.hardest,
            **({"decisions": decisions} if decisions else {}),
            **{name: getattr(self, name) for name in optional if getattr(self, name) is not None},
        }

    def _decisions(self) -> dict[str, Any]:
        """The decisions on single pairs, by which a later test can be compared; see docs/report.md."""
        right = self.accuracy.is_right
        found: dict[str, Any] = {} if right is None else {"right": pack_bits(right)}
        for vr in self.vr:
            if vr.is_accepted is not None and vr.clusters is not None:
                found.setdefault("accepted", {})[f"{vr.far_target:g}"] = pack_bits(vr.is_accepted)
                found["clusters"] = vr.clusters.tolist()
        return found


@dataclass(frozen=True)
class Report:
    """What one artefact scored, and how fast it was.

    Attributes:
        artifact: file name, or the name of a model that is not a file.
        kind: kind of artefact, e.g. 'tflite_int8'.
        sets: results of the verification sets.
        sha256: SHA-256 of the artefact; None for a model that is not a file.
        size_bytes: size of the artefact; None for a model that is not a file.
        images_per_s: images per second in the runtime alone, without decoding.
        ms_per_image: milliseconds per image in the runtime alone.
        ms_single: median milliseconds of a call with one image on one thread, alike on every runtime; None where the
            runtime cannot be held to one thread.
        threads: threads of the runtime; None where the project does not choose them.
        mean_norm: mean L2 norm of the raw embeddings; None when the runtime hides them.
        mean_cosine: mean cosine to the parent artefact on all faces of the sets; None where the parent was not run.
        min_cosine: cosine of the worst of these faces.
        same_bits: share of these faces whose embeddings are those of the parent, bit for bit.
        flip: whether the embedding of the mirrored face was added.
        executor: runtime and kernels, e.g. 'LiteRT, XNNPACK'; None where the runtime does not say it.
        memory: {what: bytes} that the artefact needs on a chip; None where that is not known.
        gallery_model: {"name", "sha256"} of the model that embedded the second face of each pair; None if it is the
            same.
    """

    artifact: str
    kind: str
    sets: tuple[SetResult, ...]
    sha256: str | None = None
    size_bytes: int | None = None
    images_per_s: float | None = None
    ms_per_image: float | None = None
    ms_single: float | None = None
    threads: int | None = None
    mean_norm: float | None = None
    mean_cosine: float | None = None
    min_cosine: float | None = None
    same_bits: float | None = None
    flip: bool = False
    executor: str | None = None
    memory: dict[str, int] | None = None
    gallery_model: dict[str, str] | None = None

    def as_dict(self, folder: Path | None = None) -> dict[str, Any]:
        """The content of `X.report.json`.

        Args:
            folder: where the file will be; the paths of the sets are relative to it.
        """
        head = {name: value for name, value in self.__dict__.items() if name != "sets"}
        sets = {result.name: result.as_dict() for result in self.sets}
        for result in sets.values():
            if folder is not None and "source" in result:
                path = os.path.relpath(result["source"]["path"], Path(folder).resolve())
                result["source"] = {**result["source"], "path": Path(path).as_posix()}
        return {**head, "sets": sets}

    def table(self) -> str:
        """The table of all test scripts, as text."""
        return format_table(self.sets)

    def findings(self) -> str:
        """What is printed under the table: means of sets, thresholds for deployment, groups, identification."""
        acc = {result.name: result.accuracy.mean for result in self.sets if result.protocol != "all-pairs"}
        return "\n".join(filter(None, (format_means(mean_of_sets(acc)), format_findings(self.sets))))

    def write(self, path: Path) -> None:
        """Writes the JSON atomically."""
        write_json(path, self.as_dict(Path(path).parent))


def read_report(path: Path) -> dict[str, Any]:
    """Reads `X.report.json`.

    Raises:
        FaceError: the file is missing or is not as `report.schema.json` says. Names the place in the file.
    """
    report = read_json(path, "report")
    check_json(report, SCHEMA, path, "report", "Run the test script of the artefact again.")
    for name, result in report["sets"].items():
        confusion = (result.get("by_identity") or {}).get("confusion")
        if confusion and not _is_square(confusion):
            raise FaceError(
                f"The matrix of who is taken for whom must have a row and a column for each identity. '{path}' has "
                f"another one for the set '{name}'. Run the test script of the artefact again."
            )
    return report


def _is_square(confusion: dict[str, Any]) -> bool:
    """Whether both tables of a confusion matrix have a row and a column for each identity, which no schema can say."""
    size = len(confusion["identities"])
    tables = confusion["nearest"], confusion["distance"]
    return all(len(table) == size and all(len(row) == size for row in table) for table in tables)


def find_whole_test(path: Path, report: Report) -> str | None:
    """What would be lost if `report` replaced the file at `path`: 'all 6,000 pairs of lfw'; None if nothing.

    A report of some pairs of a set (--pairs N) replaces none of all of them, for the same artefact.
    """
    drawn = [result.name for result in report.sets if "drawn_from" in (result.source or {})]
    try:
        old = read_report(path) if drawn and Path(path).is_file() else {}
    except FaceError:  # damaged, or another file: the test writes it anew
        return None
    if not old or old["sha256"] != report.sha256:
        return None
    whole = [name for name in drawn if name in old["sets"] and not _is_drawn(old["sets"][name])]
    return f"all {old['sets'][whole[0]]['pairs']:,} pairs of {whole[0]}" if whole else None


def _is_drawn(result: dict[str, Any]) -> bool:
    return (result.get("source") or {}).get("drawn_from") is not None


def read_ijb_report(path: Path) -> dict[str, Any]:
    """Reads `X.ijb.report.json`; see `read_report`."""
    report = read_json(path, "IJB report")
    check_json(report, SCHEMA, path, "IJB report", "Run tools/evaluate_ijb.py again.", definition="ijb_report")
    return report


def read_tinyface_report(path: Path) -> dict[str, Any]:
    """Reads `X.tinyface.report.json`; see `read_report`."""
    report = read_json(path, "TinyFace report")
    mend = "Run tools/evaluate_tinyface.py again."
    check_json(report, SCHEMA, path, "TinyFace report", mend, definition="tinyface_report")
    return report


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None  # JSON has no infinity


def report_path(artefact: Path) -> Path:
    """`X` -> `X.report.json`."""
    return Path(os.fspath(artefact) + ".report.json")


def format_table(sets: "tuple[SetResult, ...]") -> str:
    """The six usual columns; a set has one line for each FAR asked for."""
    header = ("data set", "AUC", "ACC", "VR @ FAR", "dist max", "dist min")
    rows = [header]
    for result in sets:
        acc = f"{result.accuracy.mean:1.4f}+-{result.accuracy.std:1.4f} {format_interval(result.accuracy.ci95)}"
        first, *more = [format_vr(vr) for vr in result.vr] or [""]
        rows.append((result.name, f"{result.auc:.5f}", acc, first, f"{result.dist_max:.5f}", f"{result.dist_min:.5f}"))
        rows += [("", "", "", vr, "", "") for vr in more]
    return format_text_table(rows, num_left=len(header))


def format_vr(vr: FoldTar) -> str:
    """'0.98767+-0.00716 [0.9811, 0.9922] @ FAR=0.00100' (the FAR of the test folds), or why there is no number."""
    if vr.tar is None or vr.ci95 is None:
        return f"n/a @ FAR={vr.far_target:g}: needs >= {vr.needs_impostors} impostors"
    return f"{vr.tar:2.5f}+-{vr.tar_std:2.5f} {format_interval(vr.ci95)} @ FAR={vr.far:2.5f}"


def format_interval(ci95: tuple[float, float]) -> str:
    """'[0.9811, 0.9922]', a 95 % interval."""
    return f"[{ci95[0]:.4f}, {ci95[1]:.4f}]"


def format_findings(sets: "tuple[SetResult, ...]") -> str:
    """Thresholds for deployment, groups and identification, a line each; empty when there is none of them."""
    lines = []
    for result in sets:
        for far, chosen in result.thresholds.items():
            low, high = chosen["far_ci95"]
            lines.append(
                f"{result.name}: FAR {far}: same person at squared L2 <= {chosen['distance']:.4f} "
                f"(cosine >= {chosen['cosine']:.4f}), VR {chosen['vr']:.4f}; true FAR in [{low:.2g}, {high:.2g}]"
            )
        if found := result.probability:
            lines.append(
                f"{result.name}: probability: Cllr {found['cllr']:.4f} on folds that were not fitted, minCllr "
                f"{found['fold_min_cllr']:.4f} on the same, {found['min_cllr']:.4f} fitted to all pairs"
            )
        if result.identities:
            lines.append(f"{result.name}: {_describe_folder(result.identities)}; ACC is balanced over all pairs")
        lines += [f"{result.name}: {line}" for line in _identification_lines(result.identification or {})]
        if errors := result.by_identity:
            lines.append(f"{result.name}: {_describe_confused(errors)}")
        lines += [f"{result.name}: {line}" for line in _group_lines(result.groups or {})]
    return "\n".join(lines)


def _describe_folder(identities: dict[str, Any]) -> str:
    return (
        f"{identities['count']:,} identities, {identities['images']:,} images (per identity: median "
        f"{identities['median_images']:g}, at most {identities['max_images']:,}; {identities['single']:,} identities "
        "with one image)"
    )


def _describe_confused(errors: dict[str, Any]) -> str:
    """'12 of 340 faces are nearest to another person; hardest: Ada (3 of 4)'."""
    worst = errors["worst"][0]
    hardest = f"; hardest: {printable(worst['identity'])} ({worst['confused']:,} of {worst['images']:,})"
    return (
        f"{errors['confused']:,} of {errors['faces']:,} faces are nearest to a face of a different "
        f"identity{hardest if worst['confused'] else ''}"
    )


def _identification_lines(found: dict[str, Any]) -> list[str]:
    """1:N search among the faces of a folder."""
    if not found or found["rank"].get("1") is None:
        return []
    ranks = ", ".join(f"rank-{k} {rate:.4f}" for k, rate in found["rank"].items())
    lines = [f"1:N, {found['gallery']:,} enrolled, {found['mated']:,} probes: {ranks}"]
    for fpir, miss in found["fnir"].items():
        if miss["fnir"] is None:
            lines.append(f"open set, FNIR n/a @ FPIR={fpir}: needs >= {miss['needs_unmated']:,} strangers")
        else:
            interval = format_interval(miss["ci95"])
            lines.append(f"open set, {found['unmated']:,} strangers: FNIR {miss['fnir']:.4f} {interval} @ FPIR={fpir}")
    return lines


def _group_lines(groups: dict[str, Any]) -> list[str]:
    """One line a group, and the gap between the best and the worst."""
    lines, accuracies = [], []
    for name, group in groups.items():
        if group["acc"] is None:
            lines.append(f"group {name}: {group['pairs']:,} pairs, {group['genuine']:,} genuine: too few for a rate")
            continue
        accuracies.append(group["acc"])
        rates = "".join(f", VR {vr['vr']:.4f} at FAR {vr['far']:.2g} (all: {far})" for far, vr in group["vr"].items())
        interval = format_interval(group["acc_ci95"])
        lines.append(f"group {name}: {group['pairs']:,} pairs, balanced ACC {group['acc']:.4f} {interval}{rates}")
    if len(accuracies) > 1:
        lines.append(f"gap between groups: {100 * (max(accuracies) - min(accuracies)):.2f} points of ACC")
    return lines


Rows = Sequence[Sequence[str]]


def format_text_table(rows: Rows, num_left: int) -> str:
    """Columns between bars, with a rule under the first row.

    Args:
        rows: cells as text, equally many in each row; the first row holds the heads.
        num_left: how many leading columns are flush left; the others are flush right.
    """
    head, *body = (" | ".join(cells).rstrip() for cells in _aligned(rows, num_left))
    return "\n".join([head, "-+-".join("-" * width for width in _widths(rows)), *body])


def format_markdown_table(rows: Rows, num_left: int) -> str:
    """The same table in Markdown, aligned so that it reads well as plain text too. Arguments as above."""
    head, *body = ("| " + " | ".join(cells) + " |" for cells in _aligned(rows, num_left))
    rules = ["-" * (width + 1) + ("-" if i < num_left else ":") for i, width in enumerate(_widths(rows))]
    return "\n".join([head, "|" + "|".join(rules) + "|", *body])


def _widths(rows: Rows) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _aligned(rows: Rows, num_left: int) -> Iterator[list[str]]:
    widths = _widths(rows)
    for row in rows:
        yield [
            cell.ljust(width) if i < num_left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]

"""The table of artefacts: a row for each artefact and verification set, with changes against the first artefact.

Also groups results into those that may be compared with each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from facelib.evaluation.gate import Measurement
from facelib.evaluation.results import format_text_table
from facelib.reports.read_run import Artefact

_DIFFERENCES = {"pairs": "on other pairs", "protocol": "by another protocol", "flip": "with another --flip"}
_MAX_NAMES = 4

Interval = Sequence[float] | None


@dataclass(frozen=True)
class Row:
    """One artefact on one verification set. Rates are fractions; None means not measured.

    Attributes:
        artefact: name of the artefact.
        set_name: name of the verification set.
        size_bytes: size of the file.
        ms_single: median milliseconds of a call with one image on one thread.
        executor: runtime and kernels; None where the report does not say it.
        acc: accuracy.
        acc_ci95: 95 % interval of the accuracy.
        auc: area under the ROC curve.
        vr: {FAR as the report writes it: {"vr", "ci95", "needs_impostors", ...} of the report}.
        measurement: pairs, protocol and flip of the test.
        is_stale: whether the artefact has changed since it was tested.
        first: the row of the first artefact that has this set; None for that artefact itself.
    """

    artefact: str
    set_name: str
    size_bytes: int | None
    ms_single: float | None
    executor: str | None
    acc: float
    acc_ci95: Interval
    auc: float | None
    vr: dict[str, dict[str, Any]]
    measurement: Measurement
    is_stale: bool
    first: "Row | None" = None

    @property
    def obstacles(self) -> list[str]:
        """Why this row cannot be compared with the first; see `Measurement.differences`."""
        return self.measurement.differences(self.first.measurement) if self.first else []

    @property
    def reference(self) -> "Row | None":
        """The first row, if this row may be compared with it."""
        return None if self.obstacles else self.first

    @property
    def how(self) -> str:
        """Protocol and flip: 'exact', 'insightface, flip'."""
        return self.measurement.protocol + ", flip" * self.measurement.flip


def artefact_rows(artefacts: Sequence[Artefact]) -> list[Row]:
    """The rows of the table: artefact by artefact, and set by set within an artefact."""
    rows: list[Row] = []
    first: dict[str, Row] = {}
    for artefact in artefacts:
        for name, result in artefact.report["sets"].items():
            row = Row(
                artefact=artefact.name,
                set_name=name,
                size_bytes=artefact.report.get("size_bytes"),
                ms_single=artefact.report.get("ms_single"),
                executor=artefact.report.get("executor"),
                acc=result["acc"],
                acc_ci95=result.get("acc_ci95"),
                auc=result.get("auc"),
                vr=result.get("vr", {}),
                measurement=Measurement.of(artefact.report, name),
                is_stale=artefact.is_stale,
                first=first.get(name),
            )
            first.setdefault(name, row)
            rows.append(row)
    return rows


def all_fars(rows: Sequence[Row]) -> list[str]:
    """Every FAR of any row, largest first."""
    return sorted({far for row in rows for far in row.vr}, key=float, reverse=True)


def format_far(far: str) -> str:
    """'0.001' -> '1e-3'."""
    mantissa, power = f"{float(far):e}".split("e")
    return f"{float(mantissa):g}e{int(power)}"


def format_size(size_bytes: int | None) -> str:
    """Bytes as '3.98 MiB'; '-' for None."""
    return "-" if size_bytes is None else f"{size_bytes / 2**20:.2f} MiB"


def format_ms(ms: float | None) -> str:
    """Milliseconds as '4.41'; '-' for None."""
    return "-" if ms is None else f"{ms:.2f}"


def format_percent(rate: float | None) -> str:
    """A fraction as '99.37'; '-' for None."""
    return "-" if rate is None else f"{100 * rate:.2f}"


def format_interval(interval: Interval) -> str:
    """A 95 % interval of fractions as '[99.01, 99.62]' in %; '' for None."""
    return f"[{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]" if interval else ""


def format_needs(vr: dict[str, Any]) -> str:
    """Why a VR was not measured: 'needs >= 1,112 impostors'."""
    needs = vr.get("needs_impostors")
    return f"needs >= {needs:,} impostors" if needs else "too few impostors"


def format_rate(vr: dict[str, Any] | None) -> str:
    """'98.73 [98.25, 99.08]'; 'n/a' where the set is too small for this FAR; '-' where this FAR was not asked for."""
    if vr is None:
        return "-"
    return "n/a" if vr.get("vr") is None else f"{format_percent(vr['vr'])} {format_interval(vr.get('ci95'))}".rstrip()


def format_scores(row: Row, fars: Sequence[str]) -> list[str]:
    """ACC with its interval, AUC, and the VR at each of `fars`: the cells of a text table."""
    acc = f"{format_percent(row.acc)} {format_interval(row.acc_ci95)}".rstrip()
    return [acc, "-" if row.auc is None else f"{row.auc:.5f}", *(format_rate(row.vr.get(far)) for far in fars)]


def format_table(rows: Sequence[Row]) -> str:
    """The table as text: artefact | size | ms | ACC | AUC | VR@FAR. ACC and VR in %, ms of one image on one thread."""
    fars, has_sets = all_fars(rows), len({row.set_name for row in rows}) > 1
    has_how = any(row.how != "exact" for row in rows)
    lines = [["artefact", *(["set"] if has_sets else []), *(["tested"] if has_how else []),
              "executor", "size", "ms", "ACC", "AUC", *(f"VR@FAR={format_far(far)}" for far in fars)]]  # fmt: skip
    for row in rows:
        cells = [row.artefact + "*" * row.is_stale, *([row.set_name] if has_sets else [])]
        cells += [row.how] if has_how else []
        cells += [row.executor or "-", format_size(row.size_bytes), format_ms(row.ms_single)]
        lines.append(cells + format_scores(row, fars))
    return "\n".join([format_text_table(lines, 2 + has_sets + has_how), *footnotes(rows)])


def footnotes(rows: Sequence[Row]) -> list[str]:
    """What 'n/a' and '*' mean in a table of `rows`, a line each."""
    unresolved = {(row.set_name, far): row.vr[far] for row in rows for far in row.vr if row.vr[far].get("vr") is None}
    lines = [f"n/a: {name} at FAR={format_far(far)} {format_needs(vr)}" for (name, far), vr in unresolved.items()]
    if any(row.is_stale for row in rows):
        lines.append("* the artefact has changed since this test: run its test script again")
    return lines


@dataclass(frozen=True)
class ResultGroup:
    """Results on one verification set that may be compared with each other.

    Attributes:
        set_name: name of the verification set.
        title: the set's name, and the group's number if the set has several groups.
        measurement: pairs, protocol and flip that the results share.
        artefacts: those whose results these are.
    """

    set_name: str
    title: str
    measurement: Measurement
    artefacts: list[Artefact] = field(default_factory=list)

    @property
    def results(self) -> list[tuple[str, dict[str, Any]]]:
        """(name of the artefact, its result on the set), as the figures take them."""
        return [(artefact.name, artefact.report["sets"][self.set_name]) for artefact in self.artefacts]


def group_comparable(artefacts: Sequence[Artefact]) -> list[ResultGroup]:
    """Every result of `artefacts`, each in one group; sets are in order of their first appearance."""
    names = dict.fromkeys(name for artefact in artefacts for name in artefact.report["sets"])
    groups: list[ResultGroup] = []
    for name in names:
        found: list[ResultGroup] = []
        for artefact in artefacts:
            if name not in artefact.report["sets"]:
                continue
            measurement = Measurement.of(artefact.report, name)
            group = next((one for one in found if not one.measurement.differences(measurement)), None)
            if group is None:
                group = ResultGroup(name, name, measurement)
                found.append(group)
            group.artefacts.append(artefact)
        if len(found) > 1:
            found = [replace(group, title=f"{name} #{i}") for i, group in enumerate(found, 1)]
        groups += found
    return groups


def warnings_of(groups: Sequence[ResultGroup]) -> list[str]:
    """Warnings, a line each: groups that cannot be compared with the first of their set, and pairs that are unknown."""
    lines: list[str] = []
    firsts: dict[str, ResultGroup] = {}
    for group in groups:
        first = firsts.setdefault(group.set_name, group)
        different = first.measurement.differences(group.measurement)
        if different:
            how = " and ".join(_DIFFERENCES[key] for key in different)
            who = f"{group.title} ({_names(group.artefacts)})"
            lines.append(f"{who} was measured {how} than {first.title}: do not compare them.")
        unknown = [one for one in group.artefacts if Measurement.of(one.report, group.set_name).sha256 is None]
        if 0 < len(unknown) < len(group.artefacts):
            lines.append(
                f"{group.title}: these reports do not say which pairs they used, only how many: {_names(unknown)}."
            )
    if len(firsts) < len(groups):
        lines.append("To compare them, test all with the same --valid, --protocol and --flip.")
    return lines


def _names(artefacts: Sequence[Artefact]) -> str:
    more = f" and {len(artefacts) - _MAX_NAMES} more" if artefacts[_MAX_NAMES:] else ""
    return ", ".join(artefact.name for artefact in artefacts[:_MAX_NAMES]) + more

"""The stage table: one row an artefact and set, with changes against the first stage that it may be compared with."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from facelib.evaluation.gate import Measurement
from facelib.reports.read_run import Stage
from facelib.text_table import format_text_table

_MEANINGS = {"pairs": "on other pairs", "protocol": "by another protocol", "flip": "with another --flip"}
_MAX_NAMES = 4

Interval = Sequence[float] | None


@dataclass(frozen=True)
class Row:
    """One line of the stage table: an artefact on one verification set. Rates are fractions; None = not measured.

    vr: {FAR as the report writes it: {"vr", "ci95", "needs_impostors", ...} of the report}.   measurement: how it was
    tested.   first: the same set's row of the first stage, None for itself.
    """

    stage: str
    set_name: str
    size_bytes: int | None
    ms_per_image: float | None
    threads: int | None
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
        """The first row, where it may be compared with."""
        return None if self.obstacles else self.first

    @property
    def how(self) -> str:
        """Protocol and flip: 'exact', 'insightface, flip'."""
        return self.measurement.protocol + ", flip" * self.measurement.flip


def stage_rows(stages: Sequence[Stage]) -> list[Row]:
    """The rows of the stage table, set by set within a stage."""
    rows: list[Row] = []
    first: dict[str, Row] = {}
    for stage in stages:
        for name, result in stage.report["sets"].items():
            row = Row(
                stage=stage.name,
                set_name=name,
                size_bytes=stage.report.get("size_bytes"),
                ms_per_image=stage.report.get("ms_per_image"),
                threads=stage.report.get("threads"),
                acc=result["acc"],
                acc_ci95=result.get("acc_ci95"),
                auc=result.get("auc"),
                vr=result.get("vr", {}),
                measurement=Measurement.of(stage.report, name),
                is_stale=stage.is_stale,
                first=first.get(name),
            )
            first.setdefault(name, row)
            rows.append(row)
    return rows


def all_fars(rows: Sequence[Row]) -> list[str]:
    """Every FAR that a row has, largest first."""
    return sorted({far for row in rows for far in row.vr}, key=float, reverse=True)


def format_far(far: str) -> str:
    """'0.001' -> '1e-3'."""
    mantissa, power = f"{float(far):e}".split("e")
    return f"{float(mantissa):g}e{int(power)}"


def format_size(size_bytes: int | None) -> str:
    """Bytes as '3.98 MiB'; '-' for None."""
    return "-" if size_bytes is None else f"{size_bytes / 2**20:.2f} MiB"


def format_percent(rate: float | None) -> str:
    """A fraction as '99.37'; '-' for None."""
    return "-" if rate is None else f"{100 * rate:.2f}"


def format_interval(interval: Interval) -> str:
    """A 95 % interval of fractions as '[99.01, 99.62]' in %; '' for None."""
    return f"[{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]" if interval else ""


def format_needs(vr: dict[str, Any]) -> str:
    """Why there is no number: 'needs >= 1,112 impostors'."""
    needs = vr.get("needs_impostors")
    return f"needs >= {needs:,} impostors" if needs else "too few impostors"


def format_rate(vr: dict[str, Any] | None) -> str:
    """'98.73 [98.25, 99.08]', 'n/a' where the set cannot tell, '-' where it was not asked."""
    if vr is None:
        return "-"
    return "n/a" if vr.get("vr") is None else f"{format_percent(vr['vr'])} {format_interval(vr.get('ci95'))}".rstrip()


def format_table(rows: Sequence[Row]) -> str:
    """The stage table as text: stage | size | ms | ACC | AUC | VR@FAR. ACC and VR in %, ms for one image."""
    fars, has_sets = all_fars(rows), len({row.set_name for row in rows}) > 1
    has_how = any(row.how != "exact" for row in rows)
    lines = [["stage", *(["set"] if has_sets else []), *(["tested"] if has_how else []), "size", "ms", "ACC", "AUC",
              *(f"VR@FAR={format_far(far)}" for far in fars)]]  # fmt: skip
    for row in rows:
        cells = [row.stage + "*" * row.is_stale, *([row.set_name] if has_sets else [])]
        cells += [row.how] if has_how else []
        cells.append(format_size(row.size_bytes))
        acc = f"{format_percent(row.acc)} {format_interval(row.acc_ci95)}".rstrip()
        cells += ["-" if row.ms_per_image is None else f"{row.ms_per_image:.2f}", acc]
        cells += ["-" if row.auc is None else f"{row.auc:.5f}", *(format_rate(row.vr.get(far)) for far in fars)]
        lines.append(cells)
    return "\n".join([format_text_table(lines, 1 + has_sets + has_how), *footnotes(rows)])


def footnotes(rows: Sequence[Row]) -> list[str]:
    """What 'n/a' and '*' mean in a table of `rows`."""
    unresolved = {(row.set_name, far): row.vr[far] for row in rows for far in row.vr if row.vr[far].get("vr") is None}
    lines = [f"n/a: {name} at FAR={format_far(far)} {format_needs(vr)}" for (name, far), vr in unresolved.items()]
    if any(row.is_stale for row in rows):
        lines.append("* the artefact was made again after this test: run its test script again")
    return lines


@dataclass(frozen=True)
class Block:
    """Results on one set that may be compared with each other.

    title: the set's name, with the block's number where the set has several.
    """

    set_name: str
    title: str
    measurement: Measurement
    stages: list[Stage] = field(default_factory=list)

    @property
    def results(self) -> list[tuple[str, dict[str, Any]]]:
        """(stage name, result), as the figures take them."""
        return [(stage.name, stage.report["sets"][self.set_name]) for stage in self.stages]


def group_comparable(stages: Sequence[Stage]) -> list[Block]:
    """Every result of `stages` in one block, sets in order of their first appearance."""
    names = dict.fromkeys(name for stage in stages for name in stage.report["sets"])
    blocks: list[Block] = []
    for name in names:
        found: list[Block] = []
        for stage in stages:
            if name not in stage.report["sets"]:
                continue
            measurement = Measurement.of(stage.report, name)
            block = next((b for b in found if not b.measurement.differences(measurement)), None)
            if block is None:
                block = Block(name, name, measurement)
                found.append(block)
            block.stages.append(stage)
        if len(found) > 1:
            found = [Block(name, f"{name} #{i}", block.measurement, block.stages) for i, block in enumerate(found, 1)]
        blocks += found
    return blocks


def warnings_of(blocks: Sequence[Block]) -> list[str]:
    """One line for each block that must not be compared with the first of its set, or whose pairs are not all known."""
    lines, firsts = [], {}
    for block in blocks:
        first = firsts.setdefault(block.set_name, block)
        different = first.measurement.differences(block.measurement)
        if different:
            how = " and ".join(_MEANINGS[key] for key in different)
            who = f"{block.title} ({_names(block.stages)})"
            lines.append(f"{who} was measured {how} than {first.title}: do not compare them.")
        unknown = [stage for stage in block.stages if Measurement.of(stage.report, block.set_name).sha256 is None]
        if 0 < len(unknown) < len(block.stages):
            lines.append(
                f"{block.title}: only the number of pairs is known to be that of the others, the reports do not say "
                f"which: {_names(unknown)}."
            )
    if len(firsts) < len(blocks):
        lines.append("Test all with the same --valid, --protocol and --flip to compare them.")
    return lines


def _names(stages: Sequence[Stage]) -> str:
    more = f" and {len(stages) - _MAX_NAMES} more" if stages[_MAX_NAMES:] else ""
    return ", ".join(stage.name for stage in stages[:_MAX_NAMES]) + more

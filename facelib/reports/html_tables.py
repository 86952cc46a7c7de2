"""The tables of a page: artefacts, thresholds for deployment, identification, groups of faces, IJB."""

from collections.abc import Sequence
from typing import Any

from facelib.reports.artefact_table import (
    ResultGroup,
    Row,
    all_fars,
    format_far,
    format_interval,
    format_ms,
    format_needs,
    format_percent,
)
from facelib.reports.html import Cell, Note, Table, TableRow, notes
from facelib.reports.read_run import Artefact

_OBSTACLES = {"pairs": "other pairs", "protocol": "other protocol", "flip": "other flip"}
_BAD_LOSS = 0.1  # percentage points; a smaller loss is not marked


def artefact_table(rows: Sequence[Row], name_head: str = "artefact") -> Table:
    """Size, speed, ACC, AUC and VR of every artefact and set, with changes against the first artefact.

    Args:
        rows: of `artefact_rows`.
        name_head: head of the column of names.
    """
    fars, has_sets = all_fars(rows), len({row.set_name for row in rows}) > 1
    has_how = any(row.how != "exact" for row in rows)
    heads = [name_head, *(["set"] if has_sets else []), *(["tested"] if has_how else [])]
    heads += ["executor", "MiB", "ms", "ACC", "AUC"]
    lines: list[TableRow] = []
    for before, row in zip([None, *rows], rows, strict=False):
        is_continued = before is not None and before.artefact == row.artefact
        names = [*([row.set_name] if has_sets else []), *([row.how] if has_how else [])]
        cells = [_name_cell(row, is_continued), *map(Cell, names)]
        cells += [Cell(""), Cell(""), Cell("")] if is_continued else _size_and_speed(row)
        lines.append(TableRow([*cells, *_scores(row, fars)], is_continued))
    heads += [f"VR@FAR={format_far(far)}" for far in fars]
    return Table(heads, lines, _artefact_note(rows), num_left=2 + has_sets + has_how)


def _name_cell(row: Row, is_continued: bool) -> Cell:
    if is_continued:
        return Cell("")
    stale = "changed since this test" if row.is_stale else ""
    return Cell(row.artefact, notes(stale, kind="bad"), is_name=True)


def _size_and_speed(row: Row) -> list[Cell]:
    size = "-" if row.size_bytes is None else f"{row.size_bytes / 2**20:.2f}"
    first = row.first
    return [
        Cell(row.executor or "-"),
        Cell(size, notes(_ratio(row.size_bytes, first.size_bytes if first else None))),
        Cell(format_ms(row.ms_single), notes(_ratio(row.ms_single, first.ms_single if first else None))),
    ]


def _scores(row: Row, fars: Sequence[str]) -> list[Cell]:
    """ACC, AUC and the VR at each FAR."""
    before = row.reference
    acc_notes = _points(row.acc, before.acc if before else None) + notes(format_interval(row.acc_ci95))
    acc_notes += notes(", ".join(_OBSTACLES[key] for key in row.obstacles), kind="bad")
    return [
        Cell(format_percent(row.acc), acc_notes),
        Cell("-" if row.auc is None else f"{row.auc:.5f}"),
        *(rate_cell(row.vr.get(far), before.vr.get(far) if before else None) for far in fars),
    ]


def _artefact_note(rows: Sequence[Row]) -> str:
    note = "ACC and VR in %; ms: median of calls with one image on one thread. Small print: [95 % interval]"
    if any(row.first for row in rows):
        note += ", change against the first (pt = percentage points, × = times)"
    return note + "."


def rate_cell(vr: dict[str, Any] | None, first: dict[str, Any] | None = None) -> Cell:
    """A VR with its interval and its change, or why it was not measured.

    Args:
        vr: one FAR of a report: {"vr", "ci95", "needs_impostors", ...}.
        first: the same of the first artefact.
    """
    if vr is None:
        return Cell("-")
    if vr.get("vr") is None:
        return Cell("n/a", notes(format_needs(vr).replace(">=", "≥"), kind="wrap"))
    return Cell(
        format_percent(vr["vr"]),
        _points(vr["vr"], first.get("vr") if first else None) + notes(format_interval(vr.get("ci95"))),
    )


def threshold_table(group: ResultGroup) -> Table:
    """The thresholds for deployment of each artefact at each FAR."""
    rows = []
    for name, result in group.results:
        for i, (far, chosen) in enumerate((result.get("thresholds") or {}).items()):
            cells = [
                Cell("" if i else name, is_name=True),
                Cell(format_far(far)),
                Cell(f"{chosen['distance']:.4f}", notes(_plain_interval(chosen.get("distance_ci95"), "{:.4f}"))),
                Cell(f"{chosen['cosine']:.4f}"),
                Cell(_plain_interval(chosen.get("far_ci95"), "{:.2g}") or "-"),
                Cell(format_percent(chosen.get("vr")), notes(format_interval(chosen.get("vr_ci95")))),
            ]
            rows.append(TableRow(cells, is_continued=i > 0))
    heads = ["artefact", "FAR", "distance ≤", "cosine ≥", "true FAR in", "VR %"]
    note = (
        "Two faces are of the same person when their distance is at most the given one, or their cosine at least the "
        "given one. Thresholds come from all impostor pairs of the set; brackets are 95 % intervals."
    )
    return Table(heads, rows, note, "Thresholds for deployment")


def identification_table(group: ResultGroup) -> Table:
    """1:N search: rank rates and FNIR at each FPIR."""
    found = [(name, result["identification"]) for name, result in group.results if result.get("identification")]
    heads, rows = _identification_rows(found)
    note = (
        "1:N search. Rank-k: the true identity is among the k best. FNIR: share of the mated probes that are missed, "
        "at the threshold where the share FPIR of the unmated probes finds somebody; TPIR = 100 - FNIR. In %, brackets "
        "are 95 % intervals."
    )
    return Table(heads, rows, note, "Identification")


def _identification_rows(found: Sequence[tuple[str, dict[str, Any]]]) -> tuple[list[str], list[TableRow]]:
    """(heads, rows); `found` is (name, identification of a report)."""
    ranks = sorted({rank for _, one in found for rank in one.get("rank") or {}}, key=float)
    fpirs = sorted({fpir for _, one in found for fpir in one.get("fnir") or {}}, key=float, reverse=True)
    rows = []
    for name, one in found:
        counts = [f"{one[key]:,}" if one.get(key) is not None else "-" for key in ("gallery", "mated", "unmated")]
        rates, intervals = one.get("rank") or {}, one.get("rank_ci95") or {}
        cells = [Cell(name, is_name=True), *map(Cell, counts)]
        cells += [Cell(format_percent(rates.get(rank)), notes(format_interval(intervals.get(rank)))) for rank in ranks]
        cells += [_fnir_cell((one.get("fnir") or {}).get(fpir) or {}) for fpir in fpirs]
        rows.append(TableRow(cells))
    heads = ["artefact", "gallery", "mated", "unmated", *(f"rank-{rank}" for rank in ranks)]
    return heads + [f"FNIR@FPIR={format_far(fpir)}" for fpir in fpirs], rows


def _fnir_cell(miss: dict[str, Any]) -> Cell:
    if miss.get("fnir") is None:
        needs = miss.get("needs_unmated")
        return Cell("n/a", notes(f"needs ≥ {needs:,} unmated" if needs else "", kind="wrap"))
    threshold = miss.get("threshold")
    at = f"distance ≤ {threshold:.4f}" if threshold is not None else ""
    return Cell(format_percent(miss["fnir"]), notes(format_interval(miss.get("ci95")), at))


def attribute_table(group: ResultGroup) -> Table:
    """ACC and VR of each group of faces at the thresholds of the whole set, and the gap between best and worst."""
    found = [(name, result["groups"]) for name, result in group.results if result.get("groups")]
    known = {far for _, groups in found for one in groups.values() for far in one.get("vr") or {}}
    fars = sorted(known, key=float, reverse=True)
    rows = []
    for artefact, groups in found:
        for i, (name, one) in enumerate(groups.items()):
            rows.append(TableRow(_attribute_cells("" if i else artefact, name, one, fars), is_continued=i > 0))
        gaps = [_gap([one.get("acc") for one in groups.values()])]
        for far in fars:
            rates = [(one.get("vr") or {}).get(far) or {} for one in groups.values()]
            gaps += [_gap([rate.get("vr") for rate in rates]), _gap([rate.get("far") for rate in rates], ".3g")]
        rows.append(TableRow([*map(Cell, ["", "gap", "", *gaps])], is_continued=True, is_total=True))
    heads = ["artefact", "group", "pairs", "ACC"]
    heads += [head for far in fars for head in (f"VR@FAR={format_far(far)}", "its FAR")]
    note = (
        "Pairs within one group, at the thresholds of the whole set; in %, ACC balanced, brackets are 95 % intervals. "
        "Gap: best minus worst group, in percentage points. Where intervals overlap, a gap may be chance."
    )
    return Table(heads, rows, note, "Groups", num_left=2)


def _attribute_cells(artefact: str, name: str, one: dict[str, Any], fars: Sequence[str]) -> list[Cell]:
    too_few = () if one.get("acc") is not None else notes("too few pairs")
    acc = format_percent(one["acc"]) if one.get("acc") is not None else "n/a"
    cells = [
        Cell(artefact, is_name=True),
        Cell(name),
        Cell(f"{one['pairs']:,}", notes(f"{one['genuine']:,} same")),
        Cell(acc, too_few + notes(format_interval(one.get("acc_ci95")))),
    ]
    for far in fars:
        vr = (one.get("vr") or {}).get(far) or {}
        if vr.get("vr") is None or vr.get("far") is None:
            cells += [Cell("n/a"), Cell("n/a")]
        else:
            cells.append(Cell(format_percent(vr["vr"]), notes(format_interval(vr.get("ci95")))))
            cells.append(Cell(f"{100 * vr['far']:.3g}", notes(format_interval(vr.get("far_ci95")))))
    return cells


def ijb_tables(artefacts: Sequence[Artefact]) -> list[Table]:
    """IJB-B and IJB-C of each artefact: TAR@FAR of 1:1, rank and FNIR of 1:N. Without the tables that are empty."""
    checks = [
        (f"{one.name} · {one.report.get('set', '')} {_switches(one.report)}", one.report["verification"])
        for one in artefacts
        if "verification" in one.report
    ]
    fars = sorted({far for _, one in checks for far in one["vr"]}, key=float, reverse=True)
    rows = []
    for name, one in checks:
        cells = [Cell(name, is_name=True), Cell(f"{one['pairs']:,}"), Cell(f"{one['auc']:.5f}")]
        rows.append(TableRow(cells + [rate_cell(one["vr"].get(far)) for far in fars]))
    heads = ["artefact", "pairs", "AUC", *(f"TAR@FAR={format_far(far)}" for far in fars)]
    note = "Template pairs, in %. N: norms, D: detector score, F: mirrored image; 1 with, 0 without."
    verification = Table(heads, rows, note, "IJB, 1:1")
    found = [
        (f"{artefact.name} · {gallery}", one)
        for artefact in artefacts
        for gallery, one in (artefact.report.get("identification") or {}).items()
    ]
    search = Table(*_identification_rows(found), "In %, brackets are 95 % intervals.", "IJB, 1:N")
    return [table for table in (verification, search) if table.rows]


def tinyface_tables(artefacts: Sequence[Artefact]) -> list[Table]:
    """Rank-k of each artefact on TinyFace; [] for none."""
    ranks = sorted({k for one in artefacts for k in one.report["rank"]}, key=int)
    rows = []
    for one in artefacts:
        report = one.report
        counts = [f"{report.get(key, 0):,}" for key in ("probes", "gallery", "distractors")]
        rates = [report["rank"].get(k) for k in ranks]
        cells = [Cell(one.name, is_name=True), *map(Cell, counts)]
        rows.append(TableRow(cells + [rate_cell(rate and {**rate, "vr": rate["rate"]}) for rate in rates]))
    heads = ["artefact", "probes", "gallery", "distractors", *(f"rank-{k}" for k in ranks)]
    note = "In %, brackets are 95 % intervals. Ranks are counted over images."
    return [Table(heads, rows, note, "TinyFace, 1:N")] if rows else []


def _switches(report: dict[str, Any]) -> str:
    nearest = report.get("verification", {}).get("rule") == "nearest"
    switches = (("N", not report.get("normalize")), ("D", report.get("detector_score")), ("F", report.get("flip")))
    return " ".join(f"{letter}{int(bool(value))}" for letter, value in switches) + " · nearest FAR" * nearest


def _gap(rates: Sequence[float | None], form: str = ".2f") -> str:
    known = [rate for rate in rates if rate is not None]
    return f"{100 * (max(known) - min(known)):{form}}" if len(known) > 1 else "-"


def _plain_interval(interval: Sequence[float] | None, form: str) -> str:
    return f"[{form.format(interval[0])}, {form.format(interval[1])}]" if interval else ""


def _points(value: float | None, first: float | None) -> tuple[Note, ...]:
    """The change of a rate in percentage points, red where `_BAD_LOSS` or more is lost."""
    if value is None or first is None:
        return ()
    points = round(100 * (value - first), 2)
    kind = "good" if points > 0 else "bad" if points <= -_BAD_LOSS else ""
    sign = "+" if points > 0 else "−" if points < 0 else "±"
    return notes(f"{sign}{abs(points):.2f}\N{NO-BREAK SPACE}pt", kind=kind)


def _ratio(value: float | None, first: float | None) -> str:
    return "" if not value or not first else f"{value / first:.2f}\N{NO-BREAK SPACE}×"

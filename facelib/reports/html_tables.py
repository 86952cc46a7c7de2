"""The tables of a page: stages, thresholds for deployment, identification, groups, IJB. Each as HTML, '' when empty."""

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import Any

from facelib.reports.artefact_table import (
    Block,
    Row,
    all_fars,
    format_far,
    format_interval,
    format_needs,
    format_percent,
)
from facelib.reports.html import folded, name_cell, small, table
from facelib.reports.read_run import Stage

_MAX_OPEN_ROWS = 12
_OBSTACLES = {"pairs": "other pairs", "protocol": "other protocol", "flip": "other flip"}


def stage_table(rows: Sequence[Row], title: str = "stage") -> str:
    """Size, speed, ACC, AUC and VR of every stage and set, with changes against the first. `title`: of the names."""
    fars, has_sets = all_fars(rows), len({row.set_name for row in rows}) > 1
    has_how = any(row.how != "exact" for row in rows)
    heads = [title, *(["set"] if has_sets else []), *(["tested"] if has_how else []), "MiB", "ms", "ACC", "AUC"]
    heads += [f"VR@FAR={format_far(far)}" for far in fars]
    lines: list[list[str]] = []
    goes_on = [before.stage == row.stage for before, row in pairwise(rows)]
    for row, is_told in zip(rows, [False, *goes_on], strict=True):
        before = row.reference
        stale = small("made again since this test" if row.is_stale else "", "bad")
        cells = ["" if is_told else name_cell(row.stage) + stale, *([escape(row.set_name)] if has_sets else [])]
        cells += [escape(row.how)] if has_how else []
        cells += ["", ""] if is_told else _size_and_speed(row)
        unlike = small(", ".join(_OBSTACLES[key] for key in row.obstacles), "bad")
        interval = small(format_interval(row.acc_ci95))
        cells.append(format_percent(row.acc) + _points(row.acc, before and before.acc) + interval + unlike)
        cells.append("-" if row.auc is None else f"{row.auc:.5f}")
        cells += [rate_cell(row.vr.get(far), before and before.vr.get(far)) for far in fars]
        lines.append(cells)
    threads = {row.threads for row in rows if row.threads}
    note = "ACC and VR in %; ms for one image"
    if len(threads) == 1:
        note += f" on {max(threads)} thread{'s' * (max(threads) != 1)}"
    note += ". Small print: [95 % interval]"
    if any(row.first for row in rows):
        note += ", change against the first (pt = percentage points, × = times)"
    classes = ["", *("goes-on" * is_told for is_told in goes_on)]
    content = table(heads, lines, 1 + has_sets + has_how, classes.__getitem__)
    return f'{content}<p class="soft">{escape(note)}.</p>'


def _size_and_speed(row: Row) -> list[str]:
    size = "-" if row.size_bytes is None else f"{row.size_bytes / 2**20:.2f}"
    size += _ratio(row.size_bytes, row.first and row.first.size_bytes)
    speed = "-" if row.ms_per_image is None else f"{row.ms_per_image:.2f}"
    return [size, speed + _ratio(row.ms_per_image, row.first and row.first.ms_per_image)]


def rate_cell(vr: dict[str, Any] | None, first: dict[str, Any] | None = None) -> str:
    """A VR with its interval and its change, or why there is none."""
    if vr is None:
        return "-"
    if vr.get("vr") is None:
        return "n/a" + small(format_needs(vr).replace(">=", "≥"), "wrap")
    return (
        format_percent(vr["vr"]) + _points(vr["vr"], first and first.get("vr")) + small(format_interval(vr.get("ci95")))
    )


def threshold_table(block: Block) -> str:
    """Where to draw the line in deployment, for each artefact and FAR."""
    lines, goes_on = [], []
    for name, result in block.results:
        for i, (far, chosen) in enumerate((result.get("thresholds") or {}).items()):
            goes_on.append(i > 0)
            lines.append([
                "" if i else name_cell(name),
                format_far(far),
                f"{chosen['distance']:.4f}" + small(_plain_interval(chosen.get("distance_ci95"), "{:.4f}")),
                f"{chosen['cosine']:.4f}",
                _plain_interval(chosen.get("far_ci95"), "{:.2g}") or "-",
                format_percent(chosen.get("vr")) + small(format_interval(chosen.get("vr_ci95"))),
            ])  # fmt: skip
    heads = ["artefact", "FAR", "distance ≤", "cosine ≥", "true FAR in", "VR %"]
    note = (
        "Same person at or below the distance, which is at or above the cosine. Thresholds come from all impostor "
        "pairs of the set; brackets are 95 % intervals."
    )
    return _section("Thresholds for deployment", heads, lines, goes_on, note)


def identification_table(block: Block) -> str:
    """1:N search: rank rates and FNIR at each FPIR."""
    found = [(name, result["identification"]) for name, result in block.results if result.get("identification")]
    lines, heads = _identification_lines(found)
    note = (
        "1:N search. Rank-k: the own identity is among the k best. FNIR: mated probes missed, at the threshold where "
        "FPIR of the unmated probes find somebody; TPIR = 100 - FNIR. In %, brackets are 95 % intervals."
    )
    return _section("Identification", heads, lines, [False] * len(lines), note)


def _identification_lines(found: Sequence[tuple[str, dict[str, Any]]]) -> tuple[list[list[str]], list[str]]:
    ranks = sorted({rank for _, one in found for rank in one.get("rank") or {}}, key=float)
    fpirs = sorted({fpir for _, one in found for fpir in one.get("fnir") or {}}, key=float, reverse=True)
    heads = ["artefact", "gallery", "mated", "unmated", *(f"rank-{rank}" for rank in ranks)]
    heads += [f"FNIR@FPIR={format_far(fpir)}" for fpir in fpirs]
    lines = []
    for name, one in found:
        counts = [f"{one[key]:,}" if one.get(key) is not None else "-" for key in ("gallery", "mated", "unmated")]
        intervals = one.get("rank_ci95") or {}
        cells = [
            format_percent((one.get("rank") or {}).get(rank)) + small(format_interval(intervals.get(rank)))
            for rank in ranks
        ]
        for fpir in fpirs:
            miss = (one.get("fnir") or {}).get(fpir) or {}
            if miss.get("fnir") is None:
                needs = miss.get("needs_unmated")
                cells.append("n/a" + small(f"needs ≥ {needs:,} unmated" if needs else "", "wrap"))
                continue
            threshold = miss.get("threshold")
            at = f"distance ≤ {threshold:.4f}" if threshold is not None else ""
            cells.append(format_percent(miss["fnir"]) + small(format_interval(miss.get("ci95"))) + small(at))
        lines.append([name_cell(name), *counts, *cells])
    return lines, heads


def group_table(block: Block) -> str:
    """ACC and VR of each group at the thresholds of the whole set, and the gap between best and worst group."""
    found = [(name, result["groups"]) for name, result in block.results if result.get("groups")]
    fars = sorted(
        {far for _, groups in found for one in groups.values() for far in one.get("vr") or {}}, key=float, reverse=True
    )
    lines, classes = [], []
    for name, groups in found:
        for i, (group, one) in enumerate(groups.items()):
            classes.append("goes-on" if i else "")
            acc = format_percent(one["acc"]) if one.get("acc") is not None else "n/a" + small("too few pairs")
            cells = [
                "" if i else name_cell(name),
                escape(group),
                f"{one['pairs']:,}" + small(f"{one['genuine']:,} same"),
            ]
            cells.append(acc + small(format_interval(one.get("acc_ci95"))))
            for far in fars:
                vr = (one.get("vr") or {}).get(far)
                cells += ["n/a", "n/a"] if not vr or vr.get("vr") is None or vr.get("far") is None else [
                    format_percent(vr["vr"]) + small(format_interval(vr.get("ci95"))),
                    f"{100 * vr['far']:.3g}" + small(format_interval(vr.get("far_ci95"))),
                ]  # fmt: skip
            lines.append(cells)
        gaps = [_gap([one.get("acc") for one in groups.values()])]
        for far in fars:
            rates = [(one.get("vr") or {}).get(far) or {} for one in groups.values()]
            gaps += [_gap([rate.get("vr") for rate in rates]), _gap([rate.get("far") for rate in rates], ".3g")]
        lines.append(["", "gap", "", *gaps])
        classes.append("goes-on total" if groups else "")
    heads = [
        "artefact",
        "group",
        "pairs",
        "ACC",
        *(h for far in fars for h in (f"VR@FAR={format_far(far)}", "its FAR")),
    ]
    note = (
        "Pairs within one group, at the thresholds of the whole set; in %, ACC balanced, brackets are 95 % intervals. "
        "Gap: best minus worst group, in percentage points. Where intervals overlap, a gap may be chance."
    )
    return _section("Groups", heads, lines, classes, note, num_names=2)


def ijb_tables(stages: Sequence[Stage]) -> str:
    """IJB-B and IJB-C of each artefact: TAR@FAR of 1:1, rank and FNIR of 1:N."""
    ones = [(stage.name, stage.report) for stage in stages]
    checks = [
        (f"{name} · {r.get('set', '')} {_switches(r)}", r["verification"]) for name, r in ones if "verification" in r
    ]
    fars = sorted({far for _, one in checks for far in one["vr"]}, key=float, reverse=True)
    lines = [
        [name_cell(name), f"{one['pairs']:,}", f"{one['auc']:.5f}", *(rate_cell(one["vr"].get(far)) for far in fars)]
        for name, one in checks
    ]
    heads = ["artefact", "pairs", "AUC", *(f"TAR@FAR={format_far(far)}" for far in fars)]
    note = "Template pairs, in %. N: norms, D: detector score, F: mirrored image; 1 with, 0 without."
    parts = _section("IJB, 1:1", heads, lines, [False] * len(lines), note)
    found = [
        (f"{name} · {gallery}", one)
        for name, report in ones
        for gallery, one in (report.get("identification") or {}).items()
    ]
    lines, heads = _identification_lines(found)
    return parts + _section("IJB, 1:N", heads, lines, [False] * len(lines), "In %, brackets are 95 % intervals.")


def _switches(report: dict[str, Any]) -> str:
    switches = (("N", not report.get("normalize")), ("D", report.get("detector_score")), ("F", report.get("flip")))
    return " ".join(f"{letter}{int(bool(value))}" for letter, value in switches)


def _section(
    title: str,
    heads: Sequence[str],
    lines: Sequence[Sequence[str]],
    classes: Sequence[bool | str],
    note: str,
    num_names: int = 1,
) -> str:
    """A table under its title, folded when it is long."""
    if not lines:
        return ""

    def row_class(i: int) -> str:
        return classes[i] if isinstance(classes[i], str) else "goes-on" * classes[i]

    content = table(heads, lines, num_names, row_class) + f'<p class="soft">{escape(note)}</p>'
    return folded(title, content, is_open=len(lines) <= _MAX_OPEN_ROWS)


def _gap(rates: Sequence[float | None], form: str = ".2f") -> str:
    known = [rate for rate in rates if rate is not None]
    return f"{100 * (max(known) - min(known)):{form}}" if len(known) > 1 else "-"


def _plain_interval(interval: Sequence[float] | None, form: str) -> str:
    return f"[{form.format(interval[0])}, {form.format(interval[1])}]" if interval else ""


def _points(value: float | None, first: float | None) -> str:
    """Difference of two rates in percentage points; red when a tenth of a point or more is lost."""
    if value is None or first is None:
        return ""
    points = round(100 * (value - first), 2)
    kind = "good" if points > 0 else "bad" if points <= -0.1 else ""
    sign = "+" if points > 0 else "−" if points < 0 else "±"
    return small(f"{sign}{abs(points):.2f}\N{NO-BREAK SPACE}pt", kind)


def _ratio(value: float | None, first: float | None) -> str:
    return "" if not value or not first else small(f"{value / first:.2f}\N{NO-BREAK SPACE}×")

"""The report of a test script as text: the table of the field's six columns, and what stands under it."""

from typing import TYPE_CHECKING, Any

from facelib.evaluation.ten_fold import FoldTar

if TYPE_CHECKING:
    from facelib.evaluation.results import SetResult


def format_table(sets: "tuple[SetResult, ...]") -> str:
    """Rows of `sets` under the field's six columns; a set has one line for each FAR asked for."""
    header = ("data set", "AUC", "ACC", "VR @ FAR", "dist max", "dist min")
    rows = [header]
    for result in sets:
        acc = f"{result.accuracy.mean:1.4f}+-{result.accuracy.std:1.4f} {format_interval(result.accuracy.ci95)}"
        first, *more = [format_vr(vr) for vr in result.vr] or [""]
        rows.append((result.name, f"{result.auc:.5f}", acc, first, f"{result.dist_max:.5f}", f"{result.dist_min:.5f}"))
        rows += [("", "", "", vr, "", "") for vr in more]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-+-".join("-" * width for width in widths), *lines[1:]])


def format_vr(vr: FoldTar) -> str:
    """'0.98767+-0.00716 [0.9811, 0.9922] @ FAR=0.00100' (the FAR of the test folds), or why there is no number."""
    if vr.tar is None:
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
        if result.identities:
            lines.append(f"{result.name}: {_describe_folder(result.identities)}; ACC is balanced over all pairs")
        lines += [f"{result.name}: {line}" for line in _identification_lines(result.identification or {})]
        lines += [f"{result.name}: {line}" for line in _group_lines(result.groups or {})]
    return "\n".join(lines)


def _describe_folder(identities: dict[str, Any]) -> str:
    return (
        f"{identities['count']:,} identities, {identities['images']:,} images ({identities['median_images']:g} in the "
        f"middle, {identities['max_images']:,} at most; {identities['single']:,} identities with one)"
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

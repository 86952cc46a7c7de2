"""What figures and tables need of a report beyond `read_report`: each part is absent, or as docs/report.md says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from facelib.errors import FaceError


def check_figures(report: dict[str, Any], path: Path) -> dict[str, Any]:
    """`report` itself, once every optional part of its sets is known to be drawable.

    Raises:
        FaceError: a part that is there and of another form. Names the set and the part.
    """
    for name, result in report["sets"].items():
        for part, is_right in _PARTS.items():
            if result.get(part) is not None and not is_right(result[part]):
                raise FaceError(
                    f"A report is as docs/report.md says. '{path}', set '{name}': '{part}' is not. Test it again."
                )
    return report


def check_ijb(report: dict[str, Any], path: Path) -> dict[str, Any]:
    """The same for what evaluate_ijb.py wrote."""
    parts = {"verification": _VERIFICATION, "identification": _of(_IDENTIFICATION)}
    found = [part for part in parts if report.get(part) is not None]
    for part in found:
        if not parts[part](report[part]):
            raise FaceError(f"An IJB report is as docs/report.md says. '{path}': '{part}' is not. Test it again.")
    if not found:
        raise FaceError(f"An IJB report has 'verification' or 'identification'. '{path}' has neither. Test it again.")
    return report


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_number_or_none(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Any) -> bool:
    return value is None or _is_text(value)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


def _is_interval(value: Any) -> bool:
    return value is None or (_is_numbers(value) and len(value) == 2)


def _of(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A dict whose values are right; keys that `float` reads are not asked for."""
    return lambda value: isinstance(value, dict) and all(map(is_right, value.values()))


def _at_rates(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """{rate as text: value}."""
    return lambda value: _of(is_right)(value) and all(map(_is_rate, value))


def _is_rate(text: str) -> bool:
    try:
        return 0 < float(text) <= 1
    except ValueError:
        return False


def _with(**keys: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A dict in which each of `keys` is right; a missing one counts as None."""
    return lambda value: isinstance(value, dict) and all(is_right(value.get(key)) for key, is_right in keys.items())


def _is_columns(value: Any, keys: tuple[str, ...], optional: tuple[str, ...] = (), num_edges: int = 0) -> bool:
    """A dict of lists of numbers, equally long; the first has `num_edges` more, at least 2 then."""
    if not isinstance(value, dict):
        return False
    columns = [value.get(key) for key in keys] + [value[key] for key in optional if key in value]
    if not all(map(_is_numbers, columns)):
        return False
    return {len(columns[0]) - num_edges} == {len(column) for column in columns[1:]} and len(columns[0]) >= 2 * num_edges


def _is_hardest(value: Any) -> bool:
    lists = [value.get("false_accepts"), value.get("false_rejects")] if isinstance(value, dict) else [None]
    return all(isinstance(pairs, list) and all(map(_is_pair, pairs)) for pairs in lists)


def _is_pair(value: Any) -> bool:
    images = value.get("images") if isinstance(value, dict) else None
    is_named = isinstance(images, list) and len(images) == 2 and all(isinstance(name, int | str) for name in images)
    return is_named and _is_number(value.get("distance"))


_INTERVALS = {"ci95": _is_interval, "far_ci95": _is_interval}
_VR = _at_rates(
    _with(vr=_is_number_or_none, ci95=_is_interval, threshold=_is_number_or_none, needs_impostors=_is_number_or_none)
)
_VERIFICATION = _with(pairs=_is_number, genuine=_is_number, auc=_is_number, vr=_VR)
_IDENTIFICATION = _with(
    gallery=_is_number_or_none,
    mated=_is_number_or_none,
    unmated=_is_number_or_none,
    rank=_of(_is_number_or_none),
    rank_ci95=lambda value: value is None or _of(_is_interval)(value),
    fnir=_at_rates(
        _with(fnir=_is_number_or_none, fpir=_is_number_or_none, threshold=_is_number_or_none, ci95=_is_interval,
              needs_unmated=_is_number_or_none)
    ),
)  # fmt: skip
_PARTS: dict[str, Callable[[Any], bool]] = {
    "source": _with(path=_is_text_or_none, sha256=_is_text_or_none),
    "protocol": _is_text,
    "pairs": _is_number,
    "genuine": _is_number,
    "acc_ci95": _is_interval,
    "acc_threshold": _is_number,
    "acc_folds": _is_numbers,
    "vr": _VR,
    "thresholds": _at_rates(_with(distance=_is_number, cosine=_is_number, distance_ci95=_is_interval,
                                  far_ci95=_is_interval, vr=_is_number_or_none, vr_ci95=_is_interval)),
    "roc": lambda value: _is_columns(value, ("far", "tar"), ("tar_low", "tar_high")),
    "histogram": lambda value: _is_columns(value, ("edges", "genuine", "impostor"), num_edges=1),
    "norms": lambda value: _is_columns(value, ("edges", "pairs", "errors"), num_edges=1),
    "hardest": _is_hardest,
    "groups": _of(_with(pairs=_is_number, genuine=_is_number, acc=_is_number_or_none, acc_ci95=_is_interval,
                        vr=_at_rates(_with(vr=_is_number_or_none, far=_is_number_or_none, **_INTERVALS)))),
    "identification": _IDENTIFICATION,
    "identities": _with(count=_is_number, images=_is_number, single=_is_number),
}  # fmt: skip

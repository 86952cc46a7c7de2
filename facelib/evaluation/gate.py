"""The gate behind --against: whether one report is worse than another by more than is allowed.

`Measurement` is the one definition of "measured on the same pairs in the same way". The gate, the report pages and
export_all.py all use it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facelib.errors import FaceError
from facelib.evaluation.paired import Loss, fold_loss, paired_loss, unpack_bits
from facelib.evaluation.ten_fold import NUM_FOLDS, count_folds, fold_of

_PROTOCOLS = {
    "exact": "10 folds, exact thresholds (protocol exact)",
    "insightface": "10 folds, a grid of thresholds (protocol insightface)",
    "keras_insightface": "the best threshold of the whole set (protocol keras_insightface)",
    "all-pairs": "all pairs of the folder (protocol all-pairs), ACC balanced",
}


@dataclass(frozen=True)
class Measurement:
    """How one artefact was tested on one set.

    Attributes:
        sha256: str, of the set; None in reports that do not say which pairs they used.
        pairs: int, number of pairs; None where the report does not say.
        genuine: int, how many of them are genuine; None where the report does not say.
        protocol: 'exact' | 'insightface' | 'keras_insightface' | 'all-pairs'.
        flip: whether the embedding of the mirrored face was added.
    """

    sha256: str | None
    pairs: int | None
    genuine: int | None
    protocol: str
    flip: bool

    @classmethod
    def of(cls, report: dict[str, Any], set_name: str) -> "Measurement":
        """Reads it from a report. A report without a protocol is an older one, which knew only the exact protocol."""
        result = report["sets"][set_name]
        return cls(
            sha256=(result.get("source") or {}).get("sha256"),
            pairs=result.get("pairs"),
            genuine=result.get("genuine"),
            protocol=result.get("protocol") or "exact",
            flip=bool(report.get("flip")),
        )

    def differences(self, other: "Measurement") -> list[str]:
        """Why `self` cannot be compared with `other`: some of 'pairs', 'protocol', 'flip'; empty when it can."""
        found = []
        if self._has_other_counts(other) or self._has_other_sha256(other):
            found.append("pairs")
        if self.protocol != other.protocol:
            found.append("protocol")
        if self.flip != other.flip:
            found.append("flip")
        return found

    def explain(self, reference: "Measurement") -> str:
        """The first of `differences` as a sentence, with both values and what to do."""
        first = self.differences(reference)[0]
        if first == "flip":
            return (
                "one report adds the mirrored face, but the other does not. Test both models with --flip, or both "
                "without."
            )
        if first == "protocol":
            return (
                f"protocol '{self.protocol}' here, '{reference.protocol}' in the reference. Test both models with the "
                "same --protocol."
            )
        if self._has_other_counts(reference):
            return (
                f"{self._counts()}, here, {reference._counts()}, in the reference. Test both models with the same "
                "--valid and --pairs."
            )
        return (
            f"different pairs, SHA-256 {self.sha256!s:.12} here, {reference.sha256!s:.12} in the reference. Test both "
            "models with the same --valid and --pairs."
        )

    def __str__(self) -> str:
        facts = []
        if self.pairs is not None:
            facts.append(f"{self.pairs:,} pairs" + (f", {self.genuine:,} of them same person" if self.genuine else ""))
        facts.append(_PROTOCOLS.get(self.protocol, f"protocol {self.protocol}"))
        facts.append("with flip" if self.flip else "no flip")
        if self.sha256:
            facts.append(f"sha256 {self.sha256[:8]}")
        return " · ".join(facts)

    def _has_other_counts(self, other: "Measurement") -> bool:
        return (self.pairs, self.genuine) != (other.pairs, other.genuine)

    def _has_other_sha256(self, other: "Measurement") -> bool:
        return bool(self.sha256 and other.sha256 and self.sha256 != other.sha256)

    def _counts(self) -> str:
        return f"{self.pairs} pairs, {self.genuine} genuine"


@dataclass(frozen=True)
class Finding:
    """What the gate found of one rate.

    Attributes:
        rate: set and name of the rate, such as 'lfw: ACC'.
        what: both values and the loss, such as '98.89 % against 99.40 %: 0.51 points lost, 0.5 allowed'.
        outcome: 'passed' | 'failed' | 'unclear', which is too few pairs to tell.
        needs: about how many pairs would tell, as text; '' where nobody knows.
    """

    rate: str
    what: str
    outcome: str
    needs: str = ""

    def is_loss(self, strict: bool = False) -> bool:
        """Whether the gate fails by it. What too few pairs cannot tell fails only a strict gate."""
        return self.outcome == "failed" or (strict and self.outcome == "unclear")

    def __str__(self) -> str:
        text = f"{self.rate} {self.what}"
        if self.outcome != "unclear":
            return text
        return f"{text}: too few pairs to tell" + (f" (needs about {self.needs})" if self.needs else "")


def compare(report: dict, reference: dict, max_acc_drop: float, max_vr_drop: float) -> list[Finding]:
    """What the gate finds of each ACC and VR that both reports have.

    On the same pairs, a rate passes if the 95 % interval of its loss ends within what is allowed. It fails if the loss
    is larger than allowed and not by chance. Otherwise the pairs are too few to tell. Reports without decisions on
    single pairs, which are older, are compared by their rates alone.

    Args:
        report: content of the report to judge.
        reference: content of the report to judge it by.
        max_acc_drop: allowed loss of ACC in percentage points: 0.5 lets 99.4 % fall to 98.9 %.
        max_vr_drop: allowed loss of VR in percentage points.

    Raises:
        FaceError: the reports have no set in common, or a set was measured on other pairs or in another way.
    """
    common = [name for name in reference["sets"] if name in report["sets"]]
    if not common:
        raise FaceError(
            f"The two reports have no set in common: one has {', '.join(report['sets'])}, the other has "
            f"{', '.join(reference['sets'])}. Test both models with the same --valid."
        )
    findings = []
    for name in common:
        here, there = Measurement.of(report, name), Measurement.of(reference, name)
        if here.differences(there):
            raise FaceError(f"The gate can compare only tests on the same pairs. Set '{name}': {here.explain(there)}")
        findings += _judge_set(name, report["sets"][name], reference["sets"][name], max_acc_drop, max_vr_drop)
    return findings


def is_whole_test(
    report: dict[str, Any], set_name: str, sha256: str, fars: Sequence[float], num_pairs: int | None = None
) -> bool:
    """Whether `report` has a test of all pairs of a set, with exact thresholds and without flip, by this model alone.

    Args:
        report: content of a report file.
        set_name: name of the set.
        sha256: SHA-256 of what the set is read from.
        fars: the FARs that the report must have, each in (0, 1].
        num_pairs: so many pairs that --pairs N drew are enough; None for all.
    """
    if set_name not in report["sets"]:
        return False
    result, measured = report["sets"][set_name], Measurement.of(report, set_name)
    is_drawn = (result.get("source") or {}).get("drawn_from") is not None
    is_enough = not is_drawn or measured.pairs == num_pairs
    is_plain = measured.protocol in ("exact", "all-pairs") and not measured.flip and not report.get("gallery_model")
    return is_plain and is_enough and measured.sha256 == sha256 and {f"{far:g}" for far in fars} <= result["vr"].keys()


def _judge_set(name: str, new: dict, old: dict, max_acc_drop: float, max_vr_drop: float) -> list[Finding]:
    """The findings of one set, ACC first."""
    found = [_judge(f"{name}: ACC", new.get("acc"), old.get("acc"), max_acc_drop, acc_loss(new, old))]
    new_vr, old_vr = new.get("vr", {}), old.get("vr", {})
    fars = [far for far in old_vr if far in new_vr]
    if not fars:
        raise FaceError(
            f"The gate can compare VR only at the same FAR. Set '{name}': the two reports have no FAR in common "
            f"({', '.join(new_vr) or 'none'} here, {', '.join(old_vr) or 'none'} in the reference). Use --far."
        )
    for far in fars:
        rate, old_rate = f"{name}: VR@FAR={far}", old_vr[far].get("vr")
        if old_rate is None and max_vr_drop >= 100:
            found.append(Finding(rate, "n/a", "passed"))
        elif old_rate is None:  # where the reference has no number, nothing can be told
            impostors = old_vr[far].get("needs_impostors")
            found.append(Finding(rate, "n/a", "unclear", f"{impostors:,} impostor pairs" if impostors else ""))
        else:
            found.append(_judge(rate, new_vr[far].get("vr"), old_rate, max_vr_drop, vr_loss(new, old, far)))
    return found


def _judge(rate: str, new: Any, old: Any, allowed: float, loss: Loss | None) -> Finding:
    if not isinstance(new, int | float) or not isinstance(old, int | float):
        return Finding(rate, f"cannot be compared: {new} against {old}", "failed")
    drop, limit = 100 * (old - new), allowed + 1e-9
    change = f"{drop:.2f} points lost" if drop > -0.005 else f"{-drop:.2f} points gained"
    what = f"{100 * new:.2f} % against {100 * old:.2f} %: {change}, {allowed:g} allowed"
    if loss is None:
        return Finding(rate, what, "passed" if drop <= limit else "failed")
    by_chance = f", McNemar p = {loss.p_value:.2g}" if loss.is_listed else ""
    what += f" (95 % interval {100 * loss.low:.2f} to {100 * loss.high:.2f}{by_chance})"
    if 100 * loss.high <= limit:
        return Finding(rate, what, "passed")
    if 100 * loss.lost > limit and loss.is_significant:
        return Finding(rate, what, "failed")
    needs = loss.needs(limit / 100)
    return Finding(rate, what, "unclear", f"{float(f'{needs:.2g}'):,.0f} {loss.unit}" if needs else "")


def acc_loss(new: dict[str, Any], old: dict[str, Any]) -> Loss | None:
    """The loss of ACC on the same pairs; None for a report without decisions.

    Args:
        new: the set of the report to judge.
        old: the same set of the reference.
    """
    if old.get("protocol") == "all-pairs":
        return fold_loss(new.get("acc_folds"), old.get("acc_folds"), old.get("genuine"))
    bits = _bits(new, old, lambda result: (result.get("decisions") or {}).get("right"), old.get("pairs"))
    if bits is None or len(bits[0]) < NUM_FOLDS:
        return None
    sizes = count_folds(fold_of(len(bits[0]), NUM_FOLDS), NUM_FOLDS)
    return paired_loss(*bits, sizes)._replace(is_listed=True)


def vr_loss(new: dict[str, Any], old: dict[str, Any], far: str) -> Loss | None:
    """The loss of VR on the same genuine pairs; arguments as for `acc_loss`."""
    clusters = (old.get("decisions") or {}).get("clusters")
    bits = _bits(
        new, old, lambda one: ((one.get("decisions") or {}).get("accepted") or {}).get(far), old.get("genuine")
    )
    if bits is None or not clusters or sum(clusters) != len(bits[0]):
        return None
    return paired_loss(*bits, np.array(clusters))._replace(unit="genuine pairs")


def _bits(new: dict, old: dict, take: Callable[[dict], Any], count: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """(decisions of the reference, decisions of the model), bool [count] each; None where one is missing or damaged."""
    texts = [take(old), take(new)]
    if not count or not all(isinstance(text, str) for text in texts):
        return None
    before, after = (unpack_bits(text, count) for text in texts)
    return None if before is None or after is None else (before, after)

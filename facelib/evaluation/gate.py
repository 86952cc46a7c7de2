"""DOCSTRING"""

from dataclasses import dataclass
from typing import Any

from facelib.errors import FaceError


def compare(report: dict, reference: dict, max_acc_drop: float, max_vr_drop: float) -> list[str]:
    """What `report` does worse than `reference` allows; empty when it passes.

    Args:
        report, reference: content of report files.
        max_acc_drop, max_vr_drop: allowed losses in percentage points: 0.5 lets 99.4 % fall to 98.9 %.

    Raises:
        FaceError: nothing in common to compare, or measured on other pairs or in another way.
    """
    common = [name for name in reference["sets"] if name in report["sets"]]
    if not common:
        raise FaceError(
            f"No set stands in both reports: {', '.join(report['sets'])} against {', '.join(reference['sets'])}. "
            f"Test both with the same --valid."
        )
    if bool(report.get("flip")) != bool(reference.get("flip")):
        raise FaceError("One report adds the mirrored face, the other does not. Test both with --flip or both without.")
    failures = []
    for name in common:
        new, old = report["sets"][name], reference["sets"][name]
        if (new.get("pairs"), new.get("genuine")) != (old.get("pairs"), old.get("genuine")):
            raise FaceError(
                f"Set '{name}' has {new.get('pairs')} pairs here and {old.get('pairs')} in the reference. "
                f"Test both with the same .bin."
            )
        if "protocol" in old and new.get("protocol") != old["protocol"]:
            raise FaceError(
                f"Set '{name}' has the protocol '{new.get('protocol')}' here and '{old['protocol']}' in the "
                f"reference. Test both with the same --protocol."
            )
        failures += _find_drop(f"{name}: ACC", new.get("acc"), old.get("acc"), max_acc_drop)
        new_vr, old_vr = new.get("vr", {}), old.get("vr", {})
        fars = [far for far in old_vr if far in new_vr]
        if not fars:
            raise FaceError(f"Set '{name}': no FAR stands in both reports ({list(new_vr)}, {list(old_vr)}). Use --far.")
        for far in fars:
            new_rate, old_rate = new_vr[far].get("vr"), old_vr[far].get("vr")
            if old_rate is not None:  # where the reference has no number, there is nothing to lose
                failures += _find_drop(f"{name}: VR@FAR={far}", new_rate, old_rate, max_vr_drop)
    return failures


def _find_drop(what: str, new: Any, old: Any, allowed: float) -> list[str]:
    if not isinstance(new, int | float) or not isinstance(old, int | float):
        return [f"{what} cannot be compared: {new} against {old}"]
    drop = 100 * (old - new)
    if drop <= allowed + 1e-9:
        return []
    return [f"{what} {100 * new:.2f} % against {100 * old:.2f} %: {drop:.2f} points lost, {allowed:g} allowed"]


_PROTOCOLS = {
    "exact": "10 folds, exact thresholds (protocol exact)",
    "insightface": "10 folds, a grid of thresholds (protocol insightface)",
    "all-pairs": "all pairs of the folder (protocol all-pairs), ACC balanced",
}


@dataclass(frozen=True)
class Measurement:
    """How one artefact was tested on one set. `sha256` is None in reports that do not say which pairs they used."""

    sha256: str | None
    pairs: int | None
    genuine: int | None
    protocol: str
    flip: bool

    @classmethod
    def of(cls, report: dict[str, Any], set_name: str) -> "Measurement":
        """From a report; older ones do not name a protocol, and knew only the exact one."""
        result = report["sets"][set_name]
        return cls(
            sha256=(result.get("source") or {}).get("sha256"),
            pairs=result.get("pairs"),
            genuine=result.get("genuine"),
            protocol=result.get("protocol") or "exact",
            flip=bool(report.get("flip")),
        )

    def differences(self, other: "Measurement") -> list[str]:
        """What keeps `self` from being compared with `other`: none, or some of 'pairs', 'protocol', 'flip'."""
        found = []
        if (self.pairs, self.genuine) != (other.pairs, other.genuine) or (
            self.sha256 and other.sha256 and self.sha256 != other.sha256
        ):
            found.append("pairs")
        if self.protocol != other.protocol:
            found.append("protocol")
        if self.flip != other.flip:
            found.append("flip")
        return found

    def __str__(self) -> str:
        facts = []
        if self.pairs is not None:
            facts.append(f"{self.pairs:,} pairs" + (f", {self.genuine:,} of them same person" if self.genuine else ""))
        facts.append(_PROTOCOLS.get(self.protocol, f"protocol {self.protocol}"))
        facts.append("with flip" if self.flip else "no flip")
        if self.sha256:
            facts.append(f"sha256 {self.sha256[:8]}")
        return " · ".join(facts)

"""Which results may stand beside each other: measured on the same pairs, by the same protocol, with or without flip."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from facelib.reports.read_run import Stage

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
    def of(cls, stage: Stage, set_name: str) -> "Measurement":
        """From a report; older ones do not name a protocol, and knew only the exact one."""
        result = stage.report["sets"][set_name]
        return cls(
            sha256=(result.get("source") or {}).get("sha256"),
            pairs=result.get("pairs"),
            genuine=result.get("genuine"),
            protocol=result.get("protocol") or "exact",
            flip=bool(stage.report.get("flip")),
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
            measurement = Measurement.of(stage, name)
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
        unknown = [stage for stage in block.stages if Measurement.of(stage, block.set_name).sha256 is None]
        if 0 < len(unknown) < len(block.stages):
            lines.append(
                f"{block.title}: only the number of pairs is known to be that of the others, the reports do not say "
                f"which: {_names(unknown)}."
            )
    if len(firsts) < len(blocks):
        lines.append("Test all with the same --valid, --protocol and --flip to compare them.")
    return lines


_MEANINGS = {"pairs": "on other pairs", "protocol": "by another protocol", "flip": "with another --flip"}
_MAX_NAMES = 4


def _names(stages: Sequence[Stage]) -> str:
    more = f" and {len(stages) - _MAX_NAMES} more" if stages[_MAX_NAMES:] else ""
    return ", ".join(stage.name for stage in stages[:_MAX_NAMES]) + more

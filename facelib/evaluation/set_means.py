"""The mean line under the table of several verification sets, as papers print it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

GROUPED = "rfw_"  # sets of one collection, one for each group of people: rfw_African, rfw_Asian, ...


@dataclass(frozen=True)
class SetMean:
    """The mean of several sets.

    Attributes:
        name: 'rfw', or '' for all other sets.
        count: number of sets.
        acc: mean of their ACC; each set counts once, however many pairs it has.
        acc_std: population standard deviation of the ACC between sets.
    """

    name: str
    count: int
    acc: float
    acc_std: float


def mean_of_sets(acc: Mapping[str, float]) -> list[SetMean]:
    """The mean of RFW's groups and that of all other sets, each where there are at least two.

    Papers average LFW, CFP-FP, AgeDB-30 and the like. For RFW they print the mean of the four groups and the standard
    deviation between them, which says how evenly a model works.

    Args:
        acc: {name of a set of listed pairs: its ACC, a fraction}.
    """
    rfw = [value for name, value in acc.items() if name.lower().startswith(GROUPED)]
    other = [value for name, value in acc.items() if not name.lower().startswith(GROUPED)]
    return [
        SetMean(name, len(values), float(np.mean(values)), float(np.std(values)))
        for name, values in (("", other), (GROUPED.rstrip("_"), rfw))
        if len(values) > 1
    ]


def format_means(means: Sequence[SetMean]) -> str:
    """One line each; '' for none."""
    lines = []
    for mean in means:
        what, spread = f"mean of {mean.count} sets", ""
        if mean.name:
            what = f"{mean.name}: mean of {mean.count} groups"
            spread = f", standard deviation between groups {100 * mean.acc_std:.2f} points"
        lines.append(f"{what}: ACC {mean.acc:.4f}{spread}")
    return "\n".join(lines)

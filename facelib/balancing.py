"""Per-identity balancing: how many images an identity has decides whether some are added, left out, or all dropped.

A rule is a list 'COUNT=ACTION', ascending: identities with up to COUNT images (and more than the entry before) get the
ACTION; the last COUNT is 'above'. Actions: drop; keep; variants joined by '+' (opening, gaussian, pepper), each of which
adds a changed copy of every image; or a number: keep a seeded sample of so many.

The default is the rule of AIWintermuteAI/MobileFaceNet-Keras-K210 (README, data preprocessing).

Added images are JPEG of quality 95: noise is what PNG compresses worst (three times the bytes), and JPEG is what the
training's fast decoder takes. Images that were there keep their bytes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from facelib.chosen_records import ChosenRecords
from facelib.cli import FaceError
from facelib.image_noise import VARIANTS
from facelib.sources import RecordsSource
from facelib.tfrecord import BadRecord

DEFAULT_RULE = "30=drop,90=opening+gaussian+pepper,200=opening,350=keep,above=350"
JPEG_QUALITY = 95
_HOW = f"Such as: {DEFAULT_RULE}."


@dataclass(frozen=True)
class Tier:
    """Identities with `above` < images <= `up_to` (None: no end) keep at most `limit` (None: all, 0: dropped) of them,
    and each kept one also comes in the variants `added`."""

    above: int
    up_to: int | None
    action: str
    limit: int | None
    added: tuple[str, ...]

    @property
    def name(self) -> str:
        """'91-200', 'above 350'."""
        return f"above {self.above}" if self.up_to is None else f"{self.above + 1}-{self.up_to}"


def parse_rule(text: str) -> list[Tier]:
    """The tiers of a rule, ascending; see the module's docstring.

    Raises:
        FaceError: another form, counts that do not rise, an unknown action, a sample above its own counts.
    """
    tiers, above = [], 0
    entries = [entry.strip().partition("=") for entry in text.split(",")]
    for n, (count, _, action) in enumerate(entries):
        is_last = n == len(entries) - 1
        if is_last != (count == "above") or (not is_last and not (count.isdecimal() and int(count) > above)):
            raise FaceError(
                f"A --rule is 'COUNT=ACTION,...' with rising counts, the last 'above'. Received: '{text}'. {_HOW}"
            )
        up_to = None if is_last else int(count)
        tiers.append(Tier(above, up_to, action, *_parse_action(action)))
        above = up_to or above
    return tiers


def _parse_action(action: str) -> tuple[int | None, tuple[str, ...]]:
    """(limit, added) of a tier."""
    if action == "drop":
        return 0, ()
    if action == "keep":
        return None, ()
    if action.isdecimal() and int(action) > 0:
        return int(action), ()
    added = tuple(action.split("+"))
    if not set(added) <= VARIANTS.keys() or len(set(added)) < len(added):
        raise FaceError(
            f"An action of --rule is drop, keep, a number of images, or {', '.join(VARIANTS)} joined by '+'. "
            f"Received: '{action}'. {_HOW}"
        )
    return None, tuple(name for name in VARIANTS if name in added)


class Plan(NamedTuple):
    """records: int64 [M], of the source, ascending.   variants: uint8 [M], 0 the image itself, else 1 + place in
    VARIANTS.   tier: int64 [C], of each identity; -1 for one without images.   before, after: int64 [C], images."""

    records: np.ndarray
    variants: np.ndarray
    tier: np.ndarray
    before: np.ndarray
    after: np.ndarray


def plan_balance(labels: np.ndarray, num_classes: int, tiers: list[Tier], seed: int) -> Plan:
    """Which images stand in the balanced set. `labels`: int64 [N].

    Raises:
        FaceError: nothing remains.
    """
    before = np.bincount(labels, minlength=num_classes)
    bounds = np.array([t.above for t in tiers])
    tier = np.where(before > 0, np.searchsorted(bounds, before, side="left") - 1, -1)
    limits = np.array([len(labels) if t.limit is None else t.limit for t in tiers])
    order = np.random.default_rng([seed, 2]).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # by identity, in random order within
    by_identity = labels[order]
    rank = np.arange(len(order)) - np.searchsorted(by_identity, by_identity)
    kept = np.sort(order[rank < limits[tier[by_identity]]])
    if not len(kept):
        raise FaceError(f"No identity is left by this --rule: the largest has {before.max()} images. {_HOW}")
    records, variants = [kept], [np.zeros(len(kept), np.uint8)]
    for code, name in enumerate(VARIANTS, 1):
        gets_it = np.array([name in t.added for t in tiers])
        some = kept[gets_it[tier[labels[kept]]]]
        records.append(some)
        variants.append(np.full(len(some), code, np.uint8))
    records, variants = np.concatenate(records), np.concatenate(variants)
    order = np.lexsort((variants, records))
    after = np.bincount(labels[records], minlength=num_classes)
    return Plan(records[order], variants[order], tier, before, after)


def balanced_source(source: RecordsSource, plan: Plan, seed: int) -> ChosenRecords:
    """The planned images, made when they are read. A variant depends on seed, record and kind alone."""
    makers = list(VARIANTS.values())

    def make(position: int, image: bytes) -> bytes:
        code = int(plan.variants[position])
        if code == 0:
            return image
        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
        if pixels is None:
            raise BadRecord("the image cannot be decoded")
        changed = makers[code - 1](pixels, np.random.default_rng([seed, int(plan.records[position]), code]))
        return cv2.imencode(".jpg", changed, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()

    return ChosenRecords(source, plan.records, source.labels[plan.records], source.class_names, make)


def report_balance(plan: Plan, tiers: list[Tier], class_names: list[str], rule: str, seed: int) -> dict:
    """What balance.json holds: rule, seed, a row for each tier, the total, and the identities that were dropped."""
    rows = []
    for k, tier in enumerate(tiers):
        mine = plan.tier == k
        counts = int(mine.sum()), int(plan.before[mine].sum()), int(plan.after[mine].sum())
        rows.append({"images": tier.name, "action": tier.action} | dict(zip(_COUNTS, counts, strict=True)))
    total = {name: sum(row[name] for row in rows) for name in _COUNTS}
    dropped = np.flatnonzero((plan.before > 0) & (plan.after == 0)).tolist()
    return {
        "rule": rule, "seed": seed, "tiers": rows, "total": total,
        "identities_left": int((plan.after > 0).sum()), "dropped": [class_names[c] for c in dropped],
    }  # fmt: skip


_COUNTS = ("identities", "images_before", "images_after")

"""The hardest pairs of a set as pictures: which impostors look alike to the network, and which people it misses."""

from collections.abc import Sequence
from html import escape
from typing import Any

from facelib.reports.comparable import Block
from facelib.reports.hardest_pairs import FaceFinder, FacesMissing, ReadFace, thumbnail
from facelib.reports.html import data_url, folded
from facelib.reports.read_run import Stage

_LISTS = (
    ("false_accepts", "Different people, the closest first"),
    ("false_rejects", "The same person, the farthest first"),
)


def hardest_section(block: Block, finder: FaceFinder) -> str:
    """Pairs as pictures, once for artefacts that agree on them; '' when no report lists any."""
    galleries: dict[str, list[Stage]] = {}
    for stage in block.stages:
        hardest = stage.report["sets"][block.set_name].get("hardest")
        if hardest and any(hardest[key] for key, _ in _LISTS):
            key = repr([[pair["images"] for pair in hardest[key]] for key, _ in _LISTS])
            galleries.setdefault(key, []).append(stage)
    parts = []
    for i, stages in enumerate(galleries.values()):
        result = stages[0].report["sets"][block.set_name]
        try:
            content = _gallery(result, finder.find(result, stages[0].folder), stages)
        except FacesMissing as error:
            content = f'<p class="soft">{escape(str(error))}</p>'
        names = ", ".join(stage.name for stage in stages)
        parts.append(folded(f"Hardest pairs of {names}", f'<div class="card">{content}</div>', is_open=i == 0))
    return "".join(parts)


def _gallery(result: dict[str, Any], read: ReadFace, stages: Sequence[Stage]) -> str:
    threshold = result.get("acc_threshold")
    note = "Squared L2 distance"
    if threshold is not None:
        note += f", and whether it is within {threshold:.3f}, the mean threshold of ACC"
    if len(stages) > 1:
        note += f"; distances are those of {stages[0].name}"
    parts = [f'<p class="soft">{escape(note)}.</p>']
    for key, title in _LISTS:
        pairs = result["hardest"][key]
        if pairs:
            cells = "".join(_pair(pair, read, threshold, key == "false_accepts") for pair in pairs)
            parts.append(f'<h4>{title}</h4><div class="pairs">{cells}</div>')
    return "".join(parts)


def _pair(pair: dict[str, Any], read: ReadFace, threshold: float | None, is_impostor: bool) -> str:
    faces = ""
    for i, name in enumerate(pair["images"], 1):
        try:
            image = read(name)
        except (ValueError, IndexError):  # no entry of this number
            image = b""
        faces += f'<img alt="face {i}: {escape(str(name))}" src="{data_url(thumbnail(image), "jpeg")}">'
    caption = f"{pair['distance']:.3f}"
    if threshold is not None:
        is_accepted = pair["distance"] <= threshold
        kind = "bad" if is_accepted == is_impostor else "good"
        caption += f" {'≤' if is_accepted else '&gt;'} {threshold:.3f}"
        caption += f'<br><b class="{kind}">{"accepted" if is_accepted else "rejected"}</b>'
    names = " / ".join(str(name) for name in pair["images"])
    return (
        f'<figure class="pair"><div>{faces}</div><figcaption>{caption}<br><span>{escape(names)}</span>'
        f"</figcaption></figure>"
    )

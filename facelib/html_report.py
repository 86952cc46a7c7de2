"""report.html: one file that needs no network, readable on a telephone, light or dark as the reader's system is."""

import base64
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from facelib.plots import plot_roc, plot_scores, training_figures
from facelib.run_summary import Row, Run, all_fars, format_far, format_percent, format_size, stage_rows

_STYLE = """
:root { color-scheme: light dark; --ground: #f6f8fa; --card: #ffffff; --text: #1f2328; --soft: #59636e; --line: #d8dee4;
  --good: #00664a; --bad: #a33c00; }
@media (prefers-color-scheme: dark) { :root { --ground: #0d1117; --card: #161b22; --text: #e6edf3; --soft: #9aa4af;
  --line: #30363d; --good: #2fc79b; --bad: #ff8c42; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem clamp(.7rem, 3vw, 2rem) 3rem; max-width: 70rem; background: var(--ground);
  color: var(--text); font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.45rem; line-height: 1.25; margin: .4rem 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.12rem; margin: 2rem 0 .7rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); font-size: .9rem; overflow-wrap: anywhere; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem; }
.scroll { overflow-x: auto; padding: 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .8rem; text-align: right; white-space: nowrap; vertical-align: top; }
th { font-size: .82rem; color: var(--soft); font-weight: 600; border-bottom: 1px solid var(--line); }
tr + tr td { border-top: 1px solid var(--line); }
th:first-child, td:first-child, .name { text-align: left; } td:first-child { font-weight: 600; }
.delta { display: block; font-size: .78rem; color: var(--soft); }
.good { color: var(--good); } .bad { color: var(--bad); }
.grid { display: grid; gap: .9rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }
figure { margin: 0; } img { display: block; width: 100%; height: auto; border-radius: .3rem; }
figcaption { color: var(--soft); font-size: .85rem; margin-top: .5rem; }
details { margin-top: .6rem; } summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; font-size: .82rem; line-height: 1.4; margin: .6rem 0 0; }
@media (max-width: 40rem) { table { font-size: .84rem; } th, td { padding: .4rem .38rem; }
  th { white-space: normal; font-size: .74rem; } th span { white-space: nowrap; }
  td:first-child { white-space: normal; } .delta { font-size: .7rem; } }
"""


def render_report(run: Run, sheet_jpeg: bytes | None = None) -> str:
    """The whole page.

    Args:
        run: what to show; parts that it lacks are left out.
        sheet_jpeg: a contact sheet of training faces, JPEG.
    """
    rows = stage_rows(run.stages)
    name = run.path.resolve().name
    parts = [f"<header><h1>{escape(name)}</h1>{_headline(run)}</header>"]
    if rows:
        parts.append(f"<h2>Stages</h2>{_stage_table(rows)}")
    training = training_figures(run)
    if training:
        parts.append(_grid("Training", [_figure(draw, caption, key) for key, caption, draw in training]))
    for set_name in dict.fromkeys(row.set_name for row in rows):
        parts.append(_set_section(run, set_name))
    if sheet_jpeg:
        picture = f'<img alt="training faces, one identity a row" src="{_data_url(sheet_jpeg, "jpeg")}">'
        caption = "One identity a row, with its number of images."
        figure = f'<figure class="card">{picture}<figcaption>{caption}</figcaption></figure>'
        parts.append(_grid("Training faces", [figure]))
    parts.append(_origin(run))
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(name)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _headline(run: Run) -> str:
    """Length of the training and its last measured loss, in one line."""
    facts = []
    if run.epochs:
        seconds = sum(line.get("seconds") or 0 for line in run.epochs)
        facts.append(f"{len(run.epochs)} epoch{'s' * (len(run.epochs) != 1)} in {_duration(seconds)}")
    if run.steps:
        last = run.steps[-1]
        facts.append(f"{last['step']:,} steps")
        if isinstance(last.get("images_per_s"), int | float):
            rates = sorted(line["images_per_s"] for line in run.steps if line.get("images_per_s"))
            facts.append(f"{rates[len(rates) // 2]:,.0f} images/s")
        if isinstance(last.get("loss"), int | float):
            facts.append(f"last loss {last['loss']:.3f}")
    return f'<p class="soft">{escape(" · ".join(facts))}</p>' if facts else ""


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


# ---------------------------------------------------------------------------------------------- the table


def _stage_table(rows: Sequence[Row]) -> str:
    fars, has_sets = all_fars(list(rows)), len({row.set_name for row in rows}) > 1
    threads = {row.threads for row in rows if row.threads}
    heads = ["stage", *(["set"] if has_sets else []), "size", "ms", "ACC", "AUC"]
    heads += [f"VR@FAR={format_far(far)}" for far in fars]
    heads = [escape(head).replace("@", "@<wbr><span>") + "</span>" * ("@" in head) for head in heads]
    cells = "".join(f"<th{' class=name' if head == 'set' else ''}>{head}</th>" for head in heads)
    lines = [f"<tr>{cells}</tr>"]
    for row in rows:
        first = row.first
        breakable = escape(row.stage).replace("_", "_<wbr>").replace(".", "<wbr>.")
        cells = [breakable + _note("made again since this test" if row.is_stale else "")]
        cells += [escape(row.set_name)] if has_sets else []
        cells.append(format_size(row.size_bytes) + _ratio(row.size_bytes, first and first.size_bytes))
        speed = "-" if row.ms_per_image is None else f"{row.ms_per_image:.2f}"
        cells.append(speed + _ratio(row.ms_per_image, first and first.ms_per_image))
        cells.append(format_percent(row.acc) + _points(row.acc, first and first.acc))
        cells.append("-" if row.auc is None else f"{row.auc:.5f}")
        cells += [
            format_percent(row.vr.get(far)) + _points(row.vr.get(far), first and first.vr.get(far)) for far in fars
        ]
        is_name = [i < 1 + has_sets for i in range(len(cells))]
        line = "".join(
            f"<td{' class=name' if named else ''}>{cell}</td>" for cell, named in zip(cells, is_name, strict=True)
        )
        lines.append(f"<tr>{line}</tr>")
    note = "ACC and VR in %; ms for one image"
    if len(threads) == 1:
        note += f" on {max(threads)} thread{'s' * (max(threads) != 1)}"
    if any(row.first for row in rows):
        note += ". Small print: change against the first stage, pt = percentage points"
    return f'<div class="card scroll"><table>{"".join(lines)}</table></div><p class="soft">{note}.</p>'


def _note(text: str) -> str:
    return f'<span class="delta bad">{escape(text)}</span>' if text else ""


def _points(value: float | None, first: float | None) -> str:
    """Difference of two rates in percentage points; red when a tenth of a point or more is lost."""
    if value is None or first is None:
        return ""
    points = round(100 * (value - first), 2)
    kind = "good" if points > 0 else "bad" if points <= -0.1 else ""
    sign = "+" if points > 0 else "−" if points < 0 else "±"
    return f'<span class="delta {kind}">{sign}{abs(points):.2f} pt</span>'


def _ratio(value: float | None, first: float | None) -> str:
    return "" if not value or not first else f'<span class="delta">{value / first:.2f} ×</span>'


# --------------------------------------------------------------------------------------------- the figures


def _set_section(run: Run, set_name: str) -> str:
    results = [stage.report["sets"].get(set_name, {}) for stage in run.stages]
    figures = []
    if any(result.get("roc") for result in results):
        caption = (
            "ROC of each stage. Dotted: the FAR of the table. Equal curves lie on one another, the first the widest."
        )
        figures.append(_figure(lambda theme: plot_roc(run.stages, set_name, theme), caption, f"roc {set_name}"))
    if any(result.get("histogram") for result in results):
        caption = "Distances of same-person and of different-person pairs. Dotted: the threshold of the smallest FAR."
        figures.append(_figure(lambda theme: plot_scores(run.stages, set_name, theme), caption, f"scores {set_name}"))
    counts = next((f", {r['pairs']:,} pairs" for r in results if isinstance(r.get("pairs"), int)), "")
    return _grid(f"Verification on {set_name}{counts}", figures) if figures else ""


def _grid(title: str, figures: Sequence[str]) -> str:
    return f'<h2>{escape(title)}</h2><div class="grid">{"".join(figures)}</div>'


def _figure(draw: Callable[[str], bytes], caption: str, name: str) -> str:
    """A figure in two colourings; the browser shows the one that suits."""
    light, dark = (_data_url(draw(theme), "png") for theme in ("light", "dark"))
    return (
        f'<figure class="card"><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img alt="{escape(name)}: {escape(caption)}" src="{light}"></picture>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _data_url(image: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _origin(run: Run) -> str:
    """The recipe and where the run came from, folded."""
    parts = []
    for title, content in (("Recipe", run.config), ("Provenance", run.provenance)):
        if content:
            lines = "\n".join(f"{key} = {value}" for key, value in _flatten(content))
            parts.append(f"<details><summary>{title}</summary><pre>{escape(lines)}</pre></details>")
    return f'<h2>How it was made</h2><div class="card">{"".join(parts)}</div>' if parts else ""


def _flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """{'a': {'b': 1}, 'c': [{'d': 2}]} -> [('a.b', 1), ('c.0.d', 2)]."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        items = enumerate(value)
    else:
        return [(prefix, value)]
    return [pair for key, item in items for pair in _flatten(item, f"{prefix}.{key}" if prefix else str(key))]

"""One HTML file that needs no network, readable on a telephone, light or dark as the reader's system is."""

import base64
from collections.abc import Callable, Sequence
from html import escape

from facelib.figure_style import Drawing

_STYLE = """
:root { color-scheme: light dark; --ground: #f6f8fa; --card: #ffffff; --text: #1f2328; --soft: #59636e; --line: #d8dee4;
  --good: #00664a; --bad: #a33c00; --warn: #fff4e5; }
@media (prefers-color-scheme: dark) { :root { --ground: #0d1117; --card: #161b22; --text: #e6edf3; --soft: #9aa4af;
  --line: #30363d; --good: #2fc79b; --bad: #ff8c42; --warn: #2d1f10; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem clamp(.7rem, 3vw, 2rem) 3rem; max-width: 70rem; background: var(--ground);
  color: var(--text); font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.45rem; line-height: 1.25; margin: .4rem 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.12rem; margin: 2rem 0 .7rem; } h3 { font-size: 1rem; margin: 1.3rem 0 .5rem; }
.scroll + .soft { margin-bottom: .8rem; }
h4 { font-size: .88rem; margin: .7rem 0 .4rem; font-weight: 600; }
p { margin: .3rem 0; } .soft { color: var(--soft); font-size: .9rem; overflow-wrap: anywhere; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem; }
.warning { background: var(--warn); border: 1px solid var(--bad); border-left-width: .35rem; border-radius: .6rem;
  padding: .6rem .9rem; margin: .8rem 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; padding: 0; background: linear-gradient(90deg, var(--card) 1rem, transparent 2rem) 0 / 2rem,
  linear-gradient(-90deg, var(--card) 1rem, transparent 2rem) 100% / 2rem,
  linear-gradient(90deg, var(--line), transparent) 0 / .8rem, linear-gradient(-90deg, var(--line), transparent)
  100% / .8rem, var(--card); background-repeat: no-repeat; background-attachment: local, local, scroll, scroll; }
details .scroll { margin-top: .6rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .6rem; text-align: right; white-space: nowrap; vertical-align: top; }
th { font-size: .82rem; color: var(--soft); font-weight: 600; border-bottom: 1px solid var(--line); }
tr + tr td { border-top: 1px solid var(--line); }
tr.goes-on td { border-top: none; padding-top: .1rem; } tr.total td { font-weight: 600; }
.name { text-align: left; } td:first-child { font-weight: 600; min-width: 9rem; }
.delta { display: block; font-size: .78rem; color: var(--soft); font-weight: 400; }
.wrap { white-space: normal; min-width: 6.5rem; } .good { color: var(--good); } .bad { color: var(--bad); }
.figures { columns: 2 21rem; column-gap: .9rem; } .figures figure { break-inside: avoid; margin: 0 0 .9rem; }
figure { margin: 0; } img { display: block; width: 100%; height: auto; border-radius: .3rem; }
figcaption { color: var(--soft); font-size: .85rem; margin-top: .5rem; }
.photo img { max-width: 34rem; }
.pairs { display: grid; gap: .7rem; grid-template-columns: repeat(auto-fill, minmax(8.4rem, 1fr)); }
.pair div { display: grid; grid-template-columns: 1fr 1fr; gap: 2px; }
.pair figcaption { margin-top: .2rem; line-height: 1.3; } .pair b { font-weight: 600; }
.pair span { color: var(--soft); font-size: .8rem; overflow-wrap: anywhere; }
details { margin-top: .6rem; } summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; font-size: .82rem; line-height: 1.4; margin: .6rem 0 0; }
@media (max-width: 40rem) { table { font-size: .8rem; } th, td { padding: .4rem .26rem; }
  th { white-space: normal; font-size: .7rem; } th span { white-space: nowrap; }
  td:first-child { min-width: 0; } td.name, .delta { white-space: normal; } .delta { font-size: .7rem; } }
"""


def render_page(title: str, parts: Sequence[str]) -> str:
    """The file. `parts` are HTML; empty ones are left out."""
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def warning(lines: Sequence[str]) -> str:
    """A box that cannot be overlooked, one paragraph a line; nothing for no lines."""
    return f'<div class="warning">{"".join(f"<p>{escape(line)}</p>" for line in lines)}</div>' if lines else ""


def figure_grid(figures: Sequence[str]) -> str:
    """Figures side by side where the screen is wide enough."""
    return f'<div class="figures">{"".join(figures)}</div>' if figures else ""


def figure(drawing: Drawing, where: str = "") -> str:
    """A figure in two colourings; the browser shows the one that suits. `where` is added to its name."""
    key, caption, draw = drawing
    light, dark = (data_url(draw(theme), "png") for theme in ("light", "dark"))
    return (
        f'<figure class="card"><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img alt="{escape(f"{key} {where}".strip())}: {escape(caption)}" src="{light}"></picture>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def photo_figure(jpeg: bytes, alt: str, caption: str) -> str:
    """A photo with its caption."""
    picture = f'<img alt="{escape(alt)}" src="{data_url(jpeg, "jpeg")}">'
    return f'<figure class="card photo">{picture}<figcaption>{escape(caption)}</figcaption></figure>'


def data_url(image: bytes, kind: str) -> str:
    """The image itself as an address."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    num_names: int = 1,
    row_class: Callable[[int], str] = lambda row: "",
) -> str:
    """A table that scrolls by itself.

    Args:
        heads: text.   rows: cells as HTML.   num_names: leading columns that are flush left.
        row_class: of row i, '' for none.
    """
    heads = [escape(head).replace("@", "@<wbr><span>") + "</span>" * ("@" in head) for head in heads]
    lines = [_line("th", heads, num_names, "")]
    lines += [_line("td", row, num_names, row_class(i)) for i, row in enumerate(rows)]
    return f'<div class="card scroll"><table>{"".join(lines)}</table></div>'


def small(text: str, kind: str = "") -> str:
    """Small print under the number of a cell; `kind` is 'good' or 'bad' where it is either."""
    return f'<span class="{f"delta {kind}".strip()}">{escape(text)}</span>' if text else ""


def name_cell(text: str) -> str:
    """A file name that may break at its dots, slashes and underscores."""
    return escape(text).replace("_", "_<wbr>").replace("/", "/<wbr>").replace(".", "<wbr>.")


def folded(title: str, content: str, is_open: bool = False) -> str:
    """Content that the reader opens."""
    return f"<details{' open' if is_open else ''}><summary>{escape(title)}</summary>{content}</details>"


def _line(tag: str, cells: Sequence[str], num_names: int, row_class: str) -> str:
    texts = (f"<{tag}{' class=name' if i < num_names else ''}>{cell}</{tag}>" for i, cell in enumerate(cells))
    return f"<tr{f' class={row_class}' if row_class else ''}>{''.join(texts)}</tr>"

"""Rendering: text is escaped, names may break, and tables and figures have the parts that they are given."""

import base64

import pytest

from facelib.reports.html import Cell, Note, Table, TableRow, draw_figure, notes, render

EMPTY = {
    "facts": "",
    "warnings": [],
    "artefacts": None,
    "costs": [],
    "training": [],
    "sections": [],
    "ijb": [],
    "sheet_jpeg": None,
}


def page_of(**values):
    return render("run.html.j2", **{"title": "a run", **EMPTY, "origin": [], **values})


def body_of(**values):
    return "".join(line.strip() for line in page_of(**values).partition("</header>")[2].splitlines())


def test_a_page_without_content_is_its_header():
    assert body_of() == "</body></html>"
    assert "<header><h1>a run</h1></header>" in page_of() and "<title>a run</title>" in page_of()


@pytest.mark.parametrize("values", [
    {"title": "<i>"}, {"facts": "<i>"}, {"warnings": ["<i>"]},
    {"artefacts": Table(["<i>"], [])}, {"artefacts": Table(["a"], [TableRow([Cell("<i>")])])},
    {"artefacts": Table(["a"], [TableRow([Cell("<i>", is_name=True)])])},
    {"artefacts": Table(["a"], [TableRow([Cell("", notes("<i>"))])])}, {"artefacts": Table(["a"], [], note="<i>")},
    {"ijb": [Table(["a"], [], title="<i>")]}, {"origin": [("Recipe", [("<i>", 1)])]},
    {"origin": [("Recipe", [("a", "<i>")])]},
])  # fmt: skip
def test_text_is_escaped_wherever_it_is_shown(values):
    page = page_of(**values)

    assert "<i>" not in page and "&lt;i&gt;" in page


def test_file_names_may_break_at_dots_slashes_and_underscores():
    page = body_of(artefacts=Table(["a"], [TableRow([Cell("run/model_<8>.pb", is_name=True)])]))

    assert "run/<wbr>model_<wbr>&lt;8&gt;<wbr>.pb</td>" in page


def test_a_head_may_break_after_the_at_sign():
    assert "<th>VR@<wbr><span>FAR=1e-3</span></th>" in body_of(artefacts=Table(["a", "VR@FAR=1e-3"], []))


def test_leading_columns_are_flush_left_and_notes_have_their_colour():
    row = TableRow([Cell("a"), Cell("b"), Cell("9", (Note("[8, 10]"), Note("-1", "bad")))], is_continued=True)

    page = body_of(artefacts=Table(["x", "y", "z"], [row], num_left=2))

    assert '<th class="name">x</th><th class="name">y</th><th>z</th>' in page
    assert '<tr class="continued"><td class="name">a</td><td class="name">b</td><td>9' in page
    assert '<td>9<span class="note">[8, 10]</span><span class="note bad">-1</span></td>' in page


def test_notes_without_text_are_left_out():
    assert notes("", "a", "") == (Note("a"),)


@pytest.mark.parametrize(("num_rows", "is_open"), [(12, True), (13, False)])
def test_long_tables_are_folded(num_rows, is_open):
    table = Table(["a"], [TableRow([Cell("1")])] * num_rows, title="IJB, 1:1")

    assert ("<details open><summary>IJB, 1:1</summary>" in body_of(ijb=[table])) == is_open


def test_a_figure_is_drawn_once_for_each_colouring_and_the_browser_chooses():
    figure = draw_figure(("roc", "A curve.", lambda theme: theme.encode()), "lfw")

    page = body_of(training=[figure])

    light, dark = (base64.b64encode(theme).decode() for theme in (b"light", b"dark"))
    assert f'<source media="(prefers-color-scheme: dark)" srcset="data:image/png;base64,{dark}">' in page
    assert f'<img alt="roc lfw: A curve." src="data:image/png;base64,{light}">' in page
    assert "<figcaption>A curve.</figcaption>" in page

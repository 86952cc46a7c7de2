"""What differs between a Markdown page and its translation, apart from the words."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePosixPath

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^(#+) (.+)$")
CODE_SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)]+)\)")
NUMBER = re.compile(r"(?<![A-Za-z0-9_.])v?\d+(?:[.,:/-]\d+)*(?:e[+-]?\d+)?")  # 26,679  1e-3  2026-11-25  0.2.0  1:1
PATH = re.compile(r"[A-Za-z0-9_<>*./-]+\.[A-Za-z]\w*|[A-Za-z0-9_]+/(?![A-Za-z0-9_])", re.ASCII)  # frozen.pb  tools/
ANCHOR = re.compile(r'<a id="([^"]+)"></a>')


@dataclass
class Section:
    """A heading and everything up to the next heading.

    Attributes:
        level: number of `#` of the heading, 0 for what stands before the first heading.
        title: text of the heading.
        prose: the lines that are neither a table nor a fenced block.
        tables: one list of rows a table; a row is a list of cells.
    """

    level: int
    title: str
    prose: list[str] = field(default_factory=list)
    tables: list[list[list[str]]] = field(default_factory=list)


def sections(page: str) -> list[Section]:
    """The sections of a page in order, without fenced blocks."""
    found = [Section(0, "the top")]
    in_table = False
    for line in FENCE.sub("", page).splitlines():
        heading = HEADING.match(line)
        if heading:
            found.append(Section(len(heading[1]), heading[2]))
        elif line.startswith("|"):
            if not in_table:
                found[-1].tables.append([])
            found[-1].tables[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        else:
            found[-1].prose.append(line)
        in_table = line.startswith("|")
    return found


def commands(page: str) -> list[tuple[str, list[str]]]:
    """Language and lines of every fenced block, without comments and empty lines."""
    blocks = []
    for language, body in FENCE.findall(page):
        lines = [line.split("#")[0].rstrip() for line in body.splitlines()]
        blocks.append((language, [line for line in lines if line]))
    return blocks


def code_spans(text: str) -> list[str]:
    """Text between single backquotes; the name of the Chinese front page counts as that of the English one."""
    return [" ".join(span.split()).replace("README.zh-CN.md", "README.md") for span in CODE_SPAN.findall(text)]


def plain(text: str) -> str:
    """The text without code spans, link targets and anchors."""
    text = ANCHOR.sub("", CODE_SPAN.sub(" ", text))
    return re.sub(r"\]\([^)]+\)", "]", text)


def numbers(text: str) -> list[str]:
    """The numbers in a text outside code spans, dates and versions included, in order."""
    return NUMBER.findall(plain(text))


def cell_facts(cell: str) -> list[list[str]]:
    """What a translated cell must keep: its numbers, code spans and file names."""
    return [numbers(cell), code_spans(cell), PATH.findall(plain(cell))]


def slug(title: str) -> str:
    """The anchor that a forge gives to a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def anchors(page: str) -> set[str]:
    """Every anchor of a page: those of its headings and those written as `<a id="..."></a>`."""
    return {slug(section.title) for section in sections(page)} | set(ANCHOR.findall(page))


def links(page: str, path: str) -> list[str]:
    """The targets of a page's links and pictures, from the root of the repository.

    Args:
        page: the text.
        path: where the page stands in the repository, with forward slashes.
    """
    targets = []
    for target in LINK.findall(FENCE.sub("", page)):
        if target.startswith("#") or "://" in target:
            targets.append(target)
            continue
        parts: list[str] = []
        for part in (PurePosixPath(path).parent / target).parts:
            parts = parts[:-1] if part == ".." else [*parts, part]
        targets.append("/".join(parts))
    return targets


def english_target(target: str, pages: tuple[str, str]) -> str | None:
    """The English page behind a link; None for a link to the other language and for a link inside the page."""
    target = target.replace("docs/zh/", "docs/", 1)
    return None if target in pages or target.startswith("#") else target


def counter_difference(name: str, english: list[str], chinese: list[str]) -> list[str]:
    """One line if the two lists differ as multisets."""
    missing, added = Counter(english) - Counter(chinese), Counter(chinese) - Counter(english)
    if not missing and not added:
        return []
    return [f"{name}: missing {sorted(missing.elements())}, added {sorted(added.elements())}"]


def table_differences(name: str, english: list[list[str]], chinese: list[list[str]]) -> list[str]:
    """What differs between two tables: number of rows, of columns, and the facts of each cell."""
    if len(english) != len(chinese):
        return [f"{name}: {len(english)} rows, {len(chinese)} in the translation"]
    found = []
    for row, (cells, translated) in enumerate(zip(english, chinese, strict=True)):
        if len(cells) != len(translated):
            found.append(f"{name}, row {row}: {len(cells)} cells, {len(translated)} in the translation")
            continue
        for cell, other in zip(cells, translated, strict=True):
            if cell_facts(cell) != cell_facts(other):
                found.append(f"{name}, row {row}: {cell!r} became {other!r}")
    return found


def section_differences(english: Section, chinese: Section) -> list[str]:
    """What differs between a section and its translation."""
    name = f"section {english.title!r}"
    if english.level != chinese.level:
        return [f"{name}: level {english.level}, {chinese.level} in the translation"]
    found = []
    if cell_facts(english.title) != cell_facts(chinese.title) and english.level:
        found.append(f"{name}: its title became {chinese.title!r}")
    here, there = "\n".join(english.prose), "\n".join(chinese.prose)
    found += counter_difference(f"{name}, numbers", numbers(here), numbers(there))
    found += counter_difference(f"{name}, code", sorted(set(code_spans(here))), sorted(set(code_spans(there))))
    if len(english.tables) != len(chinese.tables):
        return [*found, f"{name}: {len(english.tables)} tables, {len(chinese.tables)} in the translation"]
    for number, tables in enumerate(zip(english.tables, chinese.tables, strict=True), 1):
        found += table_differences(f"{name}, table {number}", *tables)
    return found


def differences(english: str, chinese: str, english_path: str, chinese_path: str) -> list[str]:
    """What a translation lost or added: commands, headings, numbers, code, table rows, links.

    Numbers are compared as multisets section by section, so a sentence may move inside its section. Words are not
    compared, nor are comments in fenced blocks.

    Args:
        english: text of the page.
        chinese: text of its translation.
        english_path: where the page stands in the repository.
        chinese_path: where the translation stands.

    Returns:
        One line for each difference, none if the pages are twins.
    """
    found = []
    if commands(english) != commands(chinese):
        ours, theirs = ([line for _, lines in commands(page) for line in lines] for page in (english, chinese))
        found += counter_difference("commands", ours, theirs) or ["commands: another order or other blocks"]
    here, there = sections(english), sections(chinese)
    if len(here) != len(there):
        found.append(f"{len(here) - 1} headings, {len(there) - 1} in the translation")
    for section, translated in zip(here, there, strict=False):
        found += section_differences(section, translated)

    pages = (english_path, chinese_path)
    all_links = links(english, english_path), links(chinese, chinese_path)
    targets = [sorted({target for link in page if (target := english_target(link, pages))}) for page in all_links]
    found += counter_difference("links", *targets)
    inside = [len([link for link in page if link.startswith("#")]) for page in all_links]
    if inside[0] != inside[1]:
        found.append(f"{inside[0]} links inside the page, {inside[1]} in the translation")
    return found

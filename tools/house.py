"""Show how the modules of a checkout depend on each other: rooms, imports of files and rooms, circular imports.

    python tools/house.py            this checkout
    python tools/house.py DIR another checkout, such as an older version

An arrow between two files means that one module of facelib imports the other, at the top or inside a function. A room
is a folder of facelib. The files directly in facelib form the room called hall.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from facelib.cli import run_cli, script_parser
from facelib.errors import FaceError

HALL = "hall"


@dataclass(frozen=True)
class Import:
    """One import statement of a file.

    Attributes:
        name: dotted name of what is imported, such as `facelib.errors` or `facelib.errors.FaceError`.
        line: line number in the file.
        is_top: whether it runs when the module is imported; false inside functions and under `TYPE_CHECKING`.
    """

    name: str
    line: int
    is_top: bool


def imports_of(tree: ast.Module) -> list[Import]:
    """Every import in a file; `importlib.import_module` with a literal name included."""
    found: list[Import] = []

    def visit(node: ast.AST, is_top: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, is_top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = "." * node.level + (node.module or "")
            found.extend(Import(f"{package}.{alias.name}", node.lineno, is_top) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("import_module", "importlib.import_module"):
            if isinstance(node.args[0], ast.Constant):
                found.append(Import(str(node.args[0].value), node.lineno, is_top))
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            is_top = False
        is_inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, is_top and not is_inside)

    visit(tree, True)
    return found


def library(root: Path) -> dict[str, Path]:
    """The modules of facelib by dotted name; a room's `__init__.py` has the name of the room."""
    found = {}
    for path in sorted((root / "facelib").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def module_of(name: str, modules: Iterable[str]) -> str:
    """The module that an imported name belongs to: the name itself or the nearest parent that is a module."""
    while name not in modules and "." in name:
        name = name.rpartition(".")[0]
    return name


def file_arrows(modules: dict[str, Path]) -> set[tuple[str, str]]:
    """Pairs (importer, imported) between modules of facelib."""
    arrows = set()
    for importer, path in modules.items():
        for found in imports_of(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            imported = module_of(found.name, modules)
            if imported in modules and imported != importer:
                arrows.add((importer, imported))
    return arrows


def room_of(module: str, modules: dict[str, Path], depth: int = 1) -> str:
    """The room of a module of facelib, such as `data`; with depth 2 its sub-room, such as `data.readers`.

    Modules directly in facelib are in the room `hall`.
    """
    parts = module.split(".")[1:]
    is_folder = modules[module].name == "__init__.py"
    return ".".join((parts if is_folder else parts[:-1])[:depth]) or HALL


def room_arrows(arrows: Iterable[tuple[str, str]], modules: dict[str, Path], depth: int = 1) -> Counter:
    """Number of imports between files, for each pair (room of the importer, room of the imported)."""
    pairs = ((room_of(a, modules, depth), room_of(b, modules, depth)) for a, b in arrows)
    return Counter((a, b) for a, b in pairs if a != b)


def circles(arrows: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Groups of nodes that reach each other along the arrows: the strongly connected components of two or more."""
    after: dict[str, set[str]] = {}
    for start, end in arrows:
        after.setdefault(start, set()).add(end)
    reach = {node: set(_reachable(node, after)) for node in after}
    groups = {tuple(sorted({b for b in ends if a in reach.get(b, ())})) for a, ends in reach.items() if a in ends}
    return [list(group) for group in sorted(groups) if len(group) > 1]


def _reachable(node: str, after: dict[str, set[str]]) -> Iterator[str]:
    seen, waiting = set(), [*after.get(node, ())]
    while waiting:
        at = waiting.pop()
        if at not in seen:
            seen.add(at)
            yield at
            waiting.extend(after.get(at, ()))


def describe(root: Path) -> str:
    """The report on a checkout as text: a table of rooms, then totals, arrows between rooms, and circles."""
    modules = library(root)
    if not modules:
        raise FaceError(f"'{root}' has no folder facelib/. Pass the folder of a checkout.")
    files = {name: path for name, path in modules.items() if path.name != "__init__.py"}
    arrows = file_arrows(modules)
    between = room_arrows(arrows, modules)
    in_rooms = Counter(room_of(name, modules) for name in files)
    lines: Counter[str] = Counter()
    for name, path in files.items():
        lines[room_of(name, modules)] += len(path.read_text(encoding="utf-8").splitlines())

    text = [f"{'room':<14} {'modules':>7} {'lines':>7}  imports (file arrows)"]
    for room in sorted(in_rooms, key=lambda room: (room != HALL, room)):
        others = ", ".join(f"{b} {n}" for (a, b), n in sorted(between.items()) if a == room)
        text.append(f"{room:<14} {in_rooms[room]:>7} {lines[room]:>7}  {others or '-'}")
    to_rooms = [(a, b) for a, b in between if HALL not in (a, b)]
    file_circles, room_circles = circles(arrows), circles(between)
    text += [
        "",
        f"{len(files)} modules, {sum(lines.values()):,} lines, {len(arrows)} file arrows",
        f"{len(to_rooms)} room arrows, beside those to the hall",
        f"{len(file_circles)} circles of files, {len(room_circles)} circles of rooms",
    ]
    return "\n".join(text + [f"  {' <-> '.join(group)}" for group in file_circles + room_circles])


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = script_parser(__doc__)
    this = Path(__file__).resolve().parents[1]
    parser.add_argument(
        "checkout", type=Path, nargs="?", default=this, metavar="DIR", help="checkout to read (default: this one)"
    )
    return parser.parse_args(argv)


def main(argv=None) -> int:
    """Prints the report."""
    print(describe(parse_args(argv).checkout))
    return 0


if __name__ == "__main__":
    run_cli(main)

"""The command `mobilearc`: runs any script of the project, such as `mobilearc train` or `python -m facelib train`."""

import ast
import difflib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from facelib import __version__
from facelib.cli import run_cli
from facelib.errors import FaceError
from facelib.files import scripts_folder
from facelib.script_start import hold_ctrl_c

# Of scripts, in the order of the list.
FOLDERS = (".", "tools", "om", "k210", "mcu", "ncnn", "rknn", "coreml", "esp", "arm", "board")
NOT_INSTALLED = {"demo.sh"}  # it makes a virtual environment in a checkout


def commands() -> dict[str, Path]:
    """Every script by its name without the ending, those of the pipeline first."""
    found = {}
    for folder in FOLDERS:
        for path in sorted((scripts_folder() / folder).glob("*")):
            is_shell = path.suffix == ".sh" and path.name not in NOT_INSTALLED
            if is_shell or (path.suffix == ".py" and "\n    run_cli(" in path.read_text(encoding="utf-8")):
                found[path.stem] = path
    return found


def summary(path: Path) -> str:
    """The first line of a script's description."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".sh":
        return text.splitlines()[1].strip("# ").split(":")[0] + "."
    return (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]


def with_paths(words: Sequence[str]) -> list[str]:
    """The arguments. A recipe or script that is not in the current folder becomes the path of the one in the
    package."""
    ours = scripts_folder()

    def is_ours(word: str) -> bool:
        return word.endswith((".py", ".toml")) and not Path(word).exists() and (ours / word).is_file()

    return [str(ours / word) if is_ours(word) else word for word in words]


def describe() -> str:
    """The list of commands, one line each."""
    lines = [f"mobilearc {__version__}", "", "    mobilearc COMMAND ...        mobilearc COMMAND --help", ""]
    known = commands()
    for folder in FOLDERS:
        there = {name: path for name, path in known.items() if path.parent == scripts_folder() / folder}
        title = {".": "pipeline"}.get(folder, folder)
        lines += [f"{title}:", *(f"  {name:<18} {summary(path)}" for name, path in there.items()), ""]
    return "\n".join(lines).rstrip()


def main() -> None:
    """Runs the script that the first argument names, in place of this process."""
    run_cli(_run)


def _run() -> int:
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(describe())
        return 0
    if words[0] == "--version":
        print(f"mobilearc {__version__}")
        return 0
    known, name = commands(), words[0]
    path = known.get(name.removesuffix(".py").removesuffix(".sh"))
    if path is None:
        near = difflib.get_close_matches(name, known, 1, 0.0)[0]
        raise FaceError(
            f"mobilearc has no command '{name}'. Did you mean {near}? To list all commands, run mobilearc without a "
            "command."
        )
    return _replace_process(path, words[1:])


def _replace_process(path: Path, words: list[str]) -> NoReturn:
    """Runs a script in place of this process, with the Python of this environment first on PATH."""
    program = ["/bin/sh"] if path.suffix == ".sh" else [sys.executable]
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    sys.stdout.flush()
    if path.suffix == ".py":
        hold_ctrl_c()
    os.execve(program[0], [*program, str(path), *with_paths(words)], environ)


if __name__ == "__main__":
    main()

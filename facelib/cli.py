"""What all scripts share: exit codes, and the flags that say how to feed a model without a sidecar."""

import argparse
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Container, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from facelib import __version__
from facelib.errors import FaceError
from facelib.extras import say_missing
from facelib.model_input import IO_CHOICES, Io
from facelib.script_start import Interruptible, hold_ctrl_c
from facelib.sidecar import Sidecar
from facelib.wording import command, printable

DEFAULT_VALID = Path("valid_dataset")
DEFAULT_FARS = (1e-3,)
_SETTING = re.compile(r"[\w.]+=")
HINTS = "MOBILEARC_HINTS"  # "off": print no next commands; set by scripts that run others


def run_cli(main: Callable[[], int]) -> None:
    """Runs `main` and exits with its code, with 1 and one line for a `FaceError`, or with 130 for Ctrl-C.

    A full disk, a full memory, a missing permission and a package that is not installed also give one line. Every other
    exception is a bug and keeps its traceback. File names and texts are UTF-8 in any locale, and no printed name can
    move the cursor of a terminal. A terminal that is gone ends nothing.
    """
    _use_utf8()
    sys.stdout, sys.stderr = _Plain(sys.stdout), _Silenced(sys.stderr)
    try:
        with Interruptible():
            code = main()
            sys.stdout.flush()
        sys.exit(code)
    except FaceError as error:
        print(f"error: {printable(' '.join(str(error).split(chr(10))))}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if (line := say_missing(error.name)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except MemoryError as error:
        _end_out_of_memory(error)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            print("error: Too many files are open. Raise this limit: ulimit -n 4096.", file=sys.stderr)
            sys.exit(1)
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP):
            print(
                f"error: '{error.filename}': {error.strerror}. Solve this problem, or use a different path.",
                file=sys.stderr,
            )
            sys.exit(1)
        if error.errno == errno.ENOENT and _is_in_a_removed_folder():
            print("error: The current folder was removed. Go to an existing folder: cd FOLDER.", file=sys.stderr)
            sys.exit(1)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        where = f" while writing '{error.filename}'" if error.filename else ""
        print(
            f"error: The disk is full{where} ({os.strerror(error.errno)}). Free some space and run the command again.",
            file=sys.stderr,
        )
        sys.exit(1)
    except RuntimeError as error:
        if not str(error).startswith("Symlink loop"):  # of Path.resolve
            raise
        print(f"error: A link leads back to itself ({printable(str(error))}). Remove this link.", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        is_memory = type(error).__name__ == "ResourceExhaustedError"  # TensorFlow's, which need not be imported here
        if not is_memory or "No space left" in str(error):
            raise
        _end_out_of_memory(error)


def _is_in_a_removed_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _end_out_of_memory(error: Exception) -> NoReturn:
    reason = " ".join(str(error)[:200].split())
    print(
        f"error: The memory is full{f' ({reason})' if reason else ''}. To use less memory, lower the batch size of "
        "the training (--set data.batch_size=N), --workers, --threads, or the image size; or end other programs.",
        file=sys.stderr,
    )
    sys.exit(1)


def _use_utf8() -> None:
    """Starts the command again in Python's UTF-8 mode where the locale has another encoding, such as GBK.

    Python decodes file names by the locale, so the folder of a person would come with another name. What is printed
    keeps the encoding of the terminal; what that cannot show is escaped.
    """
    if sys.getfilesystemencoding().lower() == "utf-8" or not sys.orig_argv:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        return
    terminal = getattr(sys.stdout, "encoding", None) or "utf-8"
    variables = {"PYTHONUTF8": "1", "PYTHONIOENCODING": f"{terminal}:backslashreplace"}
    hold_ctrl_c()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **variables})


class _Silenced:
    """A text stream that becomes silent when its terminal is gone, so that the work goes on.

    Args:
        stream: where the text goes; None for one that was closed before the start.

    Attributes:
        is_mid_line: whether the last line has no end, such as a progress bar.
    """

    def __init__(self, stream):
        self.is_mid_line = False
        self._stream = open(os.devnull, "w", encoding="utf-8") if stream is None else stream  # noqa: SIM115

    def write(self, text: str) -> int:
        """Writes `text`; nothing without a terminal."""
        self.is_mid_line = not text.endswith("\n") if text else self.is_mid_line
        try:
            return self._stream.write(text)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return len(text)

    def flush(self) -> None:
        """Writes what is buffered; nothing without a terminal."""
        try:
            self._stream.flush()
        except OSError as error:
            if error.errno != errno.EIO:
                raise

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


class _Plain(_Silenced):
    """A text stream that also writes control characters as escapes; only new lines and tabs stay."""

    def write(self, text: str) -> int:
        """Writes `text`, escaped."""
        return super().write("\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n")))


def next_step(*words: object) -> str:
    """The end of a line: '; next: COMMAND', quoted for the shell. '' while another script runs this one."""
    return "" if os.environ.get(HINTS) == "off" else f"; next: {command(*words)}"


def print_next(*words: object, more: str = "") -> None:
    """Prints 'next: COMMAND', quoted for the shell, then `more`; nothing while another script runs this one."""
    if hint := next_step(*words):
        print(f"{hint[2:]}{more}")


def print_notes(notes: Iterable[str]) -> None:
    """Prints what a script should say of the data that it reads, such as `notes` of a source. A line each."""
    for note in notes:
        print(f"note: {printable(note)}")


def script_parser(description: str | None, **options) -> argparse.ArgumentParser:
    """The parser of a script, with `--version`.

    Args:
        description: the docstring of the script; shown by --help as it stands.
        options: more arguments of `argparse.ArgumentParser`.
    """
    parser = _ScriptParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **options)
    parser.add_argument("--version", action="version", version=f"mobilearc {__version__}")
    return parser


class _ScriptParser(argparse.ArgumentParser):
    """A parser that also takes several settings after one --set: `--set A=1 B=2` is `--set A=1 --set B=2`."""

    def parse_known_args(self, args=None, namespace=None):
        words: list[str] = []
        is_set = False  # whether the words since the last flag are settings
        for word in sys.argv[1:] if args is None else args:
            if words[-1:] != ["--set"]:
                is_set = word == "--set" or (is_set and _SETTING.match(word) is not None)
                words += ["--set"] * (is_set and word != "--set")
            words.append(word)
        return super().parse_known_args(words, namespace)


def add_set_flag(parser: argparse.ArgumentParser, example: str) -> None:
    """Adds --set KEY=VALUE, which changes keys of the recipe and may be given several times."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"change one or more keys of the recipe: {example}",
    )


def add_encoding_flag(parser: argparse.ArgumentParser) -> None:
    """Adds --encoding, of the lists and tables that a script reads; `facelib.files.read_text` takes it."""
    text = "encoding of lists, such as gbk (default: UTF-8, or UTF-16 with a byte order mark; otherwise GBK)"
    parser.add_argument("--encoding", metavar="NAME", help=text)


def add_calibration_flags(parser, count: int, use: str) -> None:
    """Adds the flags that choose the crops on which a quantizer measures ranges.

    Args:
        parser: a parser, or an argument group.
        count: default number of crops.
        use: help of --calibration.
    """
    add = parser.add_argument
    add("--calibration", type=Path, metavar="DATA", help=use)
    add(
        "--num-calibration",
        type=int,
        default=count,
        metavar="N",
        help="number of calibration crops (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="seed that chooses the crops (default: %(default)s)")


def add_io_flags(parser: argparse.ArgumentParser, *, without: Container[str] = ()) -> None:
    """Adds the flags that say how to feed a model without a sidecar; `choose_io` reads them.

    Args:
        parser: gets the flags.
        without: names of those that the script adds itself, because they mean more there.
    """
    other = parser.add_argument_group("for models without a sidecar")
    other.add_argument("--input", metavar="NAME", help="name of the input tensor (default: input_1)")
    other.add_argument("--output", metavar="NAME", help="name of the output tensor (default: embeddings)")
    add_pixel_flags(other, without)


def add_pixel_flags(other, without: Container[str] = ()) -> None:
    """Adds the flags of `add_io_flags` that concern pixels.

    Args:
        other: a parser, or an argument group.
        without: names of those that the script adds itself.
    """
    other.add_argument("--color", choices=("rgb", "bgr"), help="channel order (default: rgb)")
    pixels_help = (
        "scaling of the pixels: 0..255, (x-127.5)/128, (x-127.5)/127.5, x/255, or ImageNet statistics (default: raw)"
    )
    if "pixels" not in without:
        other.add_argument("--pixels", choices=IO_CHOICES["pixels"], help=pixels_help)
    if "layout" not in without:
        other.add_argument("--layout", choices=("nhwc", "nchw"), help="order of the axes (default: nhwc)")
    other.add_argument("--crop", type=_parse_crop, metavar="H,W", help="size of the input in pixels (default: 112,112)")
    fit_help = "how a face of a different size is made to fit: cut out its centre, or scale it (default: crop)"
    other.add_argument("--fit", choices=IO_CHOICES["fit"], help=fit_help)


def choose_io(sidecar: Sidecar | None, args: argparse.Namespace, needs_flags: bool = True) -> Io:
    """How to feed the artefact: from its sidecar, or from the flags when it has none.

    A sidecar that earlier flags wrote (`facelib.sidecar.keep_flags`) is the default of these.

    Args:
        sidecar: of the artefact; None when it has none.
        args: the flags of `add_io_flags`, with `model`.
        needs_flags: whether an artefact without a sidecar needs flags; if not, the defaults are taken and said.

    Raises:
        FaceError: neither a sidecar nor flags, or a flag that contradicts the sidecar.
    """
    flags = {"input": "input", "output": "output", "color": "colour", "pixels": "pixels", "layout": "layout",
             "crop": "size", "fit": "fit"}  # fmt: skip
    given = {name: getattr(args, flag) for flag, name in flags.items() if getattr(args, flag, None) is not None}
    if sidecar is None:
        if not given and not needs_flags:
            print_notes(
                [
                    (
                        f"'{args.model}' has no sidecar, so its input is assumed to be raw RGB pixels; if not, use "
                        "--color and --pixels"
                    )
                ]
            )
            return Io()
        if not given:
            raise FaceError(
                f"'{args.model}' has no sidecar '{args.model.name}.json' that describes its input. Describe the "
                f"input with flags: --color rgb|bgr --pixels {'|'.join(IO_CHOICES['pixels'])} --layout nhwc|nchw "
                "[--input NAME --output NAME --crop H,W --fit crop|resize]"
            )
        return replace(Io(), **given)
    if sidecar.is_from_flags:
        return replace(sidecar.io, **{**given, "embedding_size": 0}) if given else sidecar.io
    for name, value in given.items():
        if getattr(sidecar.io, name) != value:
            flag = {"colour": "color", "size": "crop"}.get(name, name)
            raise FaceError(
                f"--{flag} {value} contradicts the sidecar '{sidecar.path}', which says {getattr(sidecar.io, name)}. "
                "Leave out this flag."
            )
    return sidecar.io


def _parse_crop(text: str) -> tuple[int, int]:
    height, _, width = text.partition(",")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"the size must be H,W in pixels, such as 112,96. Received: {text}")
    return int(height), int(width)

"""Coverage-guided inputs for one reader of a file, by atheris.

    python -m tests.fuzz.atheris_target FORMAT [flags of libFuzzer]

atheris is no requirement (pip install atheris): without it this says so and ends with 0. It follows the code that an
input reaches, so it finds what changes by the structure do not; those find what lies behind checksums.
"""

import os
import sys
import tempfile
from pathlib import Path

from tests.fuzz.formats import IN_PROCESS
from tests.fuzz.seeds import read_tree, write_seeds
from tests.fuzz.worker import open_input

FILES = {
    "bin": "x.bin",
    "checkpoint": "step-000000003.npz",
    "image": "x",
    "list": "list.txt",
    "pairs": "pairs.txt",
    "rec": "train.rec",
    "recipe": "x.toml",
    "sidecar": "m.pb.json",
    "tfrecord": "x.tfrecord",
}  # the file that atheris changes; the others stay


def main() -> int:
    """Runs until a failure, or as long as the flags of libFuzzer say, such as -max_total_time=60."""
    if len(sys.argv) < 2 or sys.argv[1] not in FILES:
        print(f"error: Name a format: {', '.join(FILES)}.", file=sys.stderr)
        return 1
    try:
        import atheris
    except ImportError:
        print("skipped: atheris is not installed (pip install atheris)")
        return 0
    name, folder = sys.argv.pop(1), Path(tempfile.mkdtemp(prefix="fuzz-"))
    write_seeds(folder / "seeds")
    trees = [read_tree(seed) for seed in sorted((folder / "seeds" / name).iterdir())]
    (folder / "corpus").mkdir()
    for number, tree in enumerate(trees):
        (folder / "corpus" / str(number)).write_bytes(tree[FILES[name]])
    tree = dict(trees[0])

    def open_one(data: bytes) -> None:
        tree[FILES[name]] = data
        outcome = open_input(name, tree, folder / "input", IN_PROCESS[name].read)
        if outcome.is_failure:
            raise RuntimeError(f"{outcome.kind}\n{outcome.text}")

    for module in [module for key, module in sys.modules.items() if key.startswith("facelib.")]:
        for key, function in list(vars(module).items()):
            if (
                callable(function)
                and getattr(function, "__module__", "") == module.__name__
                and hasattr(function, "__code__")
            ):
                setattr(module, key, atheris.instrument_func(function))
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    atheris.Setup([*sys.argv, "-timeout=20", "-rss_limit_mb=3000", str(folder / "corpus")], open_one)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())

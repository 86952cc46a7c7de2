"""A copy of this checkout in another folder, as links to the tracked files alone."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
TRACKED = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout.split("\0")[:-1]


def link_tracked_files(folder: Path) -> None:
    """A checkout in `folder`, without what was written into this one since, such as toy/."""
    for name in TRACKED:
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(ROOT / name)

"""The command `predict.py watch`: its flags, its events on stdout, and its other lines on stderr."""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from facelib.embedder import Embedder
from facelib.errors import FaceError
from facelib.evaluation.probability import Ratio
from facelib.files import atomic_path
from facelib.recognition.decision import Decision
from facelib.recognition.gallery import Gallery
from facelib.recognition.video.annotate import VideoOut, Window
from facelib.recognition.video.events import MIN_FRAMES, Answer, Identify, event_of
from facelib.recognition.video.source import VideoSource
from facelib.recognition.video.tracks import Track
from facelib.recognition.video.watch import Due, Watch, Watched
from facelib.wording import printable

NAMED = 5  # people that the last line names


def add_watch_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that only `watch` has."""
    parser.add_argument("--out", type=Path, metavar="MP4", help="write a video of the frames with boxes and names")
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="process every Nth frame (default: %(default)s)"
    )
    parser.add_argument("--max-fps", type=float, metavar="N", help="process at most N frames per second")
    parser.add_argument("--show", action="store_true", help="open a window; needs opencv-python and a screen")


def check_watch_flags(args: argparse.Namespace) -> None:
    """Refuses flags that mean nothing, before anything is opened.

    Raises:
        FaceError: a rate that is none, or an output that is no .mp4 or the source itself.
    """
    if args.every < 1:
        raise FaceError(f"--every must be 1 or more. Received: --every {args.every}.")
    if args.max_fps is not None and not 0 < args.max_fps < float("inf"):
        raise FaceError(
            f"--max-fps must be a number of frames per second, above 0. Received: --max-fps {args.max_fps:g}."
        )
    if args.out and args.out.suffix.lower() != ".mp4":
        raise FaceError(f"The name of the annotated video must end in .mp4. Received: --out {args.out}.")
    if args.out and args.out.exists() and os.path.exists(args.source) and args.out.samefile(args.source):
        raise FaceError(
            f"--out must not be the source of the video. Received: --out {args.out}: choose a different file."
        )


def run_watch(
    args: argparse.Namespace,
    gallery: Gallery,
    decision: Decision,
    embedder: Embedder,
    ratio: Ratio | None = None,
) -> int:
    """Watches `args.source` and prints an event for each person that was seen.

    Args:
        args: source, out, every, max_fps, show.
        gallery: of the enrolled people.
        decision: the threshold.
        embedder: the model that enrolled the gallery.
        ratio: calibrated, for probabilities; None where the model has none.

    Raises:
        FaceError: the source, the window or the output cannot be had.
    """
    from facelib.alignment.detect import FaceDetector

    window = Window() if args.show else None
    detector = FaceDetector(is_thorough=False)
    source = VideoSource(args.source, say)
    say(f"{source.name}: {'a camera' if source.is_live else 'a file'} of {source.fps:.4g} frames a second; {decision}")
    identify = Identify(gallery, decision, ratio)
    watch = Watch(
        source, detector, embedder, gallery.flip, identify, decision.distance, Due(args.every, args.max_fps)
    )  # fmt: skip
    started = source.started if source.is_live else None

    def tell(track: Track, answer: Answer) -> None:
        tqdm.write(json.dumps(event_of(track, answer, started), ensure_ascii=False), file=sys.stdout)
        sys.stdout.flush()

    rate = min(1.0 / args.every, (args.max_fps or source.fps) / source.fps)
    total = math.ceil(source.num_frames * rate) or None
    hides = True if source.is_live else None  # None: shown in a terminal
    with video_out(args, source) as out, tqdm(total=total, desc="watch", unit="frame", disable=hides) as bar:
        watch.run(tell, out, window, bar.update)
    if window:
        window.close()
    for line in closing_lines(watch.done, args.out):
        say(line)
    return 0


@contextmanager
def video_out(args: argparse.Namespace, source: VideoSource) -> Iterator[VideoOut | None]:
    """Yields the annotated video, None without --out; it is there under its name when it is whole."""
    if not args.out:
        yield None
        return
    fps = min(source.fps / args.every, args.max_fps or source.fps)
    with atomic_path(args.out) as part:
        video = part.with_name(part.name + ".mp4")  # OpenCV chooses the format by the suffix
        out = VideoOut(video, fps, keeps_all=not source.is_live)
        try:
            yield out
            out.close()
            out.check()
            os.replace(video, part)
        finally:
            out.close()
            with suppress(FileNotFoundError):
                video.unlink()


def closing_lines(done: Watched, path: Path | None) -> list[str]:
    """What was seen, and where the time went."""
    people = [f"{name}{f' ({count} times)' if count > 1 else ''}" for name, count in done.people.items() if name]
    named = ", ".join(people[:NAMED]) + (f" and {len(people) - NAMED} more" if len(people) > NAMED else "")
    lines = [
        f"{done.frames:,} frames, {done.faces:,} faces; seen: {named or 'nobody who is enrolled'}; "
        f"{done.people[None]} unknown"
    ]
    if done.brief:
        lines.append(f"{done.brief} faces in fewer than {MIN_FRAMES} frames made no event")
    if done.dropped:
        lines.append(f"{done.dropped:,} frames were dropped: the work is slower than the camera")
    parts = ", ".join(f"{part} {ms:.1f}" for part, ms in done.milliseconds().items())
    lines.append(f"{done.frames / max(done.seconds, 1e-9):.1f} frames a second; ms a frame, overlapping: {parts}")
    return [*lines, f"wrote {path}"] if path else lines


def say(line: str) -> None:
    """Prints a line on stderr, so that stdout has events only; above a progress bar."""
    tqdm.write(printable(line), file=sys.stderr)

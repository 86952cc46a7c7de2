"""Measure the time of each part of the command `predict.py watch`, in ms per frame.

    python benchmarks/bench_watch.py --model runs/toy/export/model_int8.tflite [--frames 100] [--threads 1]

The films show synthetic faces: 1 or 4 faces, in 640x360 or 1920x1080. Each of the 3 rounds processes every film once.
The parts are read (decode), detect, align, embed, identify and draw (this part also writes the annotated video). `ms`:
the time of a part, as the median of the rounds. `share`: `ms` of a part, divided by the sum of all parts. `fps`: frames
per second. The parts overlap, so `fps` is more than 1000 / sum of `ms`. `busy`: share of all cores in use during the
test.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.machine import busy_share, machine, read_cpu
from facelib.alignment.detect import FaceDetector
from facelib.cli import add_io_flags, choose_io, run_cli
from facelib.data.synthetic.faces import synthetic_face
from facelib.embedder import RuntimeEmbedder
from facelib.recognition.decision import Decision
from facelib.recognition.gallery import open_gallery, write_gallery
from facelib.recognition.video.annotate import VideoOut
from facelib.recognition.video.events import Identify
from facelib.recognition.video.source import VideoSource
from facelib.recognition.video.watch import PARTS, Due, Watch, Watched
from facelib.runtimes.open_embedder import open_embedder
from facelib.sidecar import check_sidecar

ROUNDS, FPS, PEOPLE = 3, 25.0, 100
FILMS = [(360, 640, 1), (360, 640, 4), (1080, 1920, 1), (1080, 1920, 4)]  # height, width, faces


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, metavar="X", help="artefact that embeds the faces")
    parser.add_argument("--frames", type=int, default=100, metavar="N", help="frames of a film (default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="threads of the runtime (default: %(default)s)"
    )
    add_io_flags(parser)
    args = parser.parse_args(argv)
    embedder = open_embedder(args.model, choose_io(check_sidecar(args.model), args), args.threads)
    with tempfile.TemporaryDirectory() as folder:
        identify = enrolled(Path(folder), args.model, embedder)
        films = {film: write_film(Path(folder), args.frames, *film) for film in FILMS}
        rounds: dict[tuple[int, int, int], list[Watched]] = {film: [] for film in FILMS}
        before = read_cpu()
        for _ in range(ROUNDS):
            for film, path in films.items():
                rounds[film].append(watch(path, embedder, identify))
    busy = busy_share(before)
    for (height, width, faces), done in rounds.items():
        ms = {part: float(np.median([one.milliseconds()[part] for one in done])) for part in PARTS}
        result = {
            "name": "watch",
            "model": args.model.name,
            "film": f"{width}x{height}",
            "faces": faces,
            "faces_found": round(done[0].faces / max(1, done[0].frames), 2),
            "ms": {part: round(value, 2) for part, value in ms.items()},
            "share": {part: round(value / sum(ms.values()), 3) for part, value in ms.items()},
            "fps": round(float(np.median([one.frames / one.seconds for one in done])), 1),
            "busy": busy,
            "threads": args.threads,
            "machine": machine(),
        }
        print(json.dumps(result))
    return 0


def watch(path: Path, embedder: RuntimeEmbedder, identify: Identify) -> Watched:
    """One run over a film, with an annotated video."""
    out = VideoOut(path.with_suffix(".out.mp4"), FPS, keeps_all=True)
    source = VideoSource(str(path), print)
    one = Watch(source, FaceDetector(is_thorough=False), embedder, False, identify, 1.0, Due())
    one.run(lambda track, answer: None, out)
    out.close()
    return one.done


def enrolled(folder: Path, model: Path, embedder: RuntimeEmbedder) -> Identify:
    """A gallery of synthetic people."""
    vectors = embedder(np.stack([synthetic_face(1, person, 0) for person in range(PEOPLE)]))
    path = folder / "people.npy"
    names = [f"person {k}" for k in range(PEOPLE)]
    decision = Decision(1.0)
    write_gallery(path, vectors, names, [1] * PEOPLE, model=model, io=embedder.io, flip=False, decision=decision)
    return Identify(open_gallery(path), decision)


def write_film(folder: Path, frames: int, height: int, width: int, faces: int) -> Path:
    """A film of people who move a little to and fro; each face takes a quarter of the height."""
    path = folder / f"{width}x{height}-{faces}.mp4"
    side = height // 4
    people = [cv2.resize(synthetic_face(1, person, 0), (side, side)) for person in range(faces)]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (width, height))
    for number in range(frames):
        picture = np.full((height, width, 3), 110, np.uint8)
        move = round(side / 4 * np.sin(number / 8))
        for k, face in enumerate(people):
            x, y = (2 * k + 1) * width // (2 * faces) - side // 2 + move, (height - side) // 2 + move // 2
            picture[y : y + side, x : x + side] = face
        writer.write(np.ascontiguousarray(picture[:, :, ::-1]))
    writer.release()
    return path


if __name__ == "__main__":
    run_cli(main)

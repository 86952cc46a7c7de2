"""Run directories as training and the test scripts leave them, with simulated scores on synthetic faces."""

import json

import numpy as np

from facelib.data.readers.folder_source import FolderSource
from facelib.data.synthetic.files import SyntheticSet, write_folders
from facelib.data.verification.bins import write_bin
from facelib.evaluation.evaluate_set import measure_folder, measure_pairs
from facelib.evaluation.face_map import SIDE, FaceMap, MappedFace
from facelib.evaluation.results import Report
from facelib.files import sha256_of
from facelib.reports.html import Figure

ARTEFACTS = ("export/model_int8.tflite", "export/frozen.pb", "embedder.h5")  # not in pipeline order
NUM_PAIRS = 200
CONFIG = 'seed = 7\n[[stage]]\nloss = "arcface"\nmargin = {margin}\n'


def name_figure(drawing, where=""):
    """A stand-in for `html.draw_figure` that names the figure and draws nothing."""
    return Figure(f"{drawing[0]} {where}".strip(), drawing[1], b"", b"")


def write_faces(folder):
    """Writes `people`, a folder of identities, and `toy.bin`, pairs of its images."""
    write_folders(folder / "people", SyntheticSet(12, 4))
    images = [file.read_bytes() for file in sorted((folder / "people").rglob("*.jpg"))]
    write_bin(folder / "toy.bin", [images[i % len(images)] for i in range(2 * NUM_PAIRS)], is_same_pair())


def is_same_pair():
    """Genuine and impostor pairs in turn, bool [NUM_PAIRS]."""
    return np.tile([True, False], NUM_PAIRS // 2)


def write_log(run, num_steps=30, epoch_steps=10, loss=10.0):
    """Writes RUN/metrics.jsonl: steps with falling loss, and epochs with results on toy.bin."""
    lines = []
    for step in range(1, num_steps + 1):
        lines.append({"kind": "step", "step": step, "epoch": (step - 1) // epoch_steps + 1, "loss": loss / step,
                      "accuracy": step / num_steps, "learning_rate": 0.1, "images_per_s": 100.0})  # fmt: skip
        if step % epoch_steps == 0:
            sets = {
                "toy": {"acc": 0.5 + step / 100, "acc_std": 0.01, "auc": 0.9, "eer": 0.1, "vr": {"0.1": {"vr": 0.5}}}
            }
            lines.append({"kind": "epoch", "step": step, "epoch": step // epoch_steps, "loss": 1.0, "accuracy": 0.5,
                          "seconds": 60.0, "sets": sets})  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def pair_result(faces, noise, protocol="exact"):
    """Scores of toy.bin: two normal distributions, wider for more `noise`."""
    random, is_same = np.random.default_rng(0), is_same_pair()
    distances = np.clip(np.where(is_same, 0.8, 1.6) + random.normal(0, 0.2 + 0.1 * noise, NUM_PAIRS), 0, 4)
    path = faces / "toy.bin"
    return measure_pairs(
        "toy", distances, is_same, (1e-1, 5e-2, 1e-4), protocol=protocol, norms=random.gamma(9, 2, 2 * NUM_PAIRS),
        images=[str(i) for i in range(2 * NUM_PAIRS)], source={"path": str(path), "sha256": sha256_of(path)},
    )  # fmt: skip


def folder_result(faces, noise):
    """Scores of all pairs of `people`, two groups, and a search among them."""
    source = FolderSource(faces / "people")
    random = np.random.default_rng(1)
    rows = random.normal(size=(12, 16))[source.labels] + (0.7 + 0.2 * noise) * random.normal(size=(len(source), 16))
    names = [source.file_of(i).relative_to(source.path).as_posix() for i in range(len(source))]
    return measure_folder(
        "people", rows, source.labels, (1e-1,), norms=np.linalg.norm(rows, axis=1), images=names,
        groups=np.where(source.labels % 2, "odd <ones>", "even"),
        identities=[source.class_names[label] for label in source.labels.tolist()],
        source={"path": str(source.path.resolve()), "sha256": source.fingerprint},
    )  # fmt: skip


def build_run(folder, faces, *, margin=0.5, noise=0.0, flip=False, protocol="exact", has_folder_set=False):
    """A run directory with three artefacts, tested on toy.bin and, if `has_folder_set`, on `people`."""
    (folder / "export").mkdir(parents=True)
    write_log(folder, loss=10.0 + noise)
    (folder / "config.toml").write_text(CONFIG.format(margin=margin))
    (folder / "embedder.h5.json").write_text('{"kind": "h5", "epoch": 2}')
    provenance = {
        "git": "0123abcd", "data": {"path": "../people", "fingerprint": "ab" * 32}, "note": "<script>alert(1)</script>",
    }  # fmt: skip
    (folder / "provenance.json").write_text(json.dumps(provenance))
    for i, name in enumerate(ARTEFACTS[::-1]):
        sets = [pair_result(faces, noise + i, protocol)]
        sets += [folder_result(faces, noise + i)] if has_folder_set else []
        report = Report(
            name, "any", tuple(sets), size_bytes=2**20 * (3 - i), ms_single=4.5, executor="LiteRT XNNPACK", flip=flip
        )
        report.write(folder / f"{name}.report.json")
    return folder


def simulated_map(set_sha256="", num_faces=60):
    """A map of toy.bin with ten identities and three errors; what it shows are no faces."""
    random = np.random.default_rng(0)
    verdicts = {3: ("false accept", "4.jpg"), 4: ("false accept", "3.jpg"), 9: ("false reject", "not on the map")}
    faces = [MappedFace(f"{i}.jpg", f"<person {i // 6}>", *verdicts.get(i, ("right", ""))) for i in range(num_faces)]
    return FaceMap(
        "toy", set_sha256, faces, np.eye(num_faces, dtype=np.float32), random.random((num_faces, 2), np.float32),
        random.integers(0, 256, (num_faces, SIDE, SIDE, 3), np.uint8), 12_000,
    )  # fmt: skip

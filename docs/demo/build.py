"""Build the browser demo from a .tflite: a folder for any static file server.

    python docs/demo/build.py runs/toy/export/model_float.tflite [--out DIR]
    python -m http.server --directory docs/demo/dist

The page compares two photos, or a camera frame with a photo, in the browser. LiteRT.js is installed from npm once, in
the version of package-lock.json. The face detector is the same as in align_faces.py. The built page loads nothing from
other sites. Like predict.py, the page uses the threshold in the model's sidecar, which the test script wrote.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
import hashlib
import shutil
import subprocess
from collections.abc import Sequence

import cv2

from facelib.alignment.face_boxes import FACE_BOXES, FACE_POINTS, WEIGHTS
from facelib.cli import run_cli, script_parser
from facelib.data.synthetic.faces import synthetic_face
from facelib.errors import FaceError
from facelib.files import require_file, working_folder, write_bytes, write_json
from facelib.model_input import TEMPLATE_112
from facelib.recognition.decision import Decision, decide_by
from facelib.runtimes.tflite import Lite
from facelib.sidecar import Sidecar, check_sidecar

HERE = Path(__file__).resolve().parent
PAGE = ("index.html", "style.css", "app.js", "embedder.js", "faces.js")
SETTINGS = "demo.json"  # app.js reads it first; a folder that has it is an earlier build and may be replaced
SHAPE = (1, 112, 112, 3)
# {file in the packages: file in the built folder}. A browser loads the one of the two runtimes that it supports.
RUNTIME = {
    "@litertjs/core/dist/index.js": "runtime/litert.js",
    "@litertjs/wasm-utils/dist/index.js": "runtime/wasm_utils.js",
    **{
        f"@litertjs/core/wasm/{name}{suffix}": f"runtime/{name}{suffix}"
        for name in ("litert_wasm_internal", "litert_wasm_compat_internal")
        for suffix in (".js", ".wasm")
    },
}
# {file of the face detector: file in the built folder}. Its licence asks that a copy of the licence goes with it.
DETECTOR = {FACE_BOXES: FACE_BOXES, FACE_POINTS: FACE_POINTS, "LICENSE": "face_detector_LICENSE.txt"}
# Label and two (identity, picture) of synthetic faces.
EXAMPLES = (("the same person", ((0, 0), (0, 1))), ("two people", ((0, 0), (1, 0))))


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    parser.add_argument(
        "model", type=Path, metavar="MODEL.tflite", help="float, fp16 or dynamic model, with its sidecar"
    )
    parser.add_argument(
        "--out", type=Path, default=HERE / "dist", metavar="DIR", help="folder to write (default: docs/demo/dist)"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--far", type=float, metavar="RATE", help="use the threshold for this FAR (default: 0.001)")
    which.add_argument(
        "--threshold",
        type=float,
        metavar="DISTANCE",
        help="use this threshold instead, a squared L2 distance from 0 to 4",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    sidecar = check_model(args.model)
    decision = decide_by(args.model, args.far, args.threshold)
    if args.out.is_dir() and any(args.out.iterdir()) and not (args.out / SETTINGS).is_file():
        raise FaceError(
            f"--out must be a new folder or an earlier build. '{args.out}' holds other files. Choose a different --out."
        )
    packages = install_packages()
    with working_folder(args.out) as folder:
        fill(folder, args.model, sidecar, decision, packages)
        if args.out.is_dir():
            shutil.rmtree(args.out.resolve())
    print(f"{decision}")
    print(f"wrote {args.out}; next: python -m http.server --directory {args.out}   and open http://localhost:8000")
    return 0


def check_model(model: Path) -> Sidecar:
    """Refuses a model that the page cannot feed or LiteRT.js cannot read. Returns its sidecar."""
    require_file(model, "model")
    if model.suffix != ".tflite":
        raise FaceError(f"The page needs a .tflite. Received: '{model}'. Make a .tflite with pb_2_tflite.py.")
    sidecar = check_sidecar(model)
    if sidecar is None:
        raise FaceError(
            f"'{model}' needs a sidecar that describes the input of the model. Use a .tflite made by pb_2_tflite.py."
        )
    io = sidecar.io
    if (io.layout, io.colour, io.pixels) != ("nhwc", "rgb", "raw"):
        raise FaceError(
            f"The model must take raw RGB pixels, NHWC. '{model}' takes {io.pixels}, {io.colour}, {io.layout}: use a "
            ".tflite made by pb_2_tflite.py."
        )
    lite = Lite(model, input=io.input, output=io.output)
    if lite.shape != SHAPE:
        raise FaceError(
            f"The model must take the shape {list(SHAPE)}. '{model}' takes {list(lite.shape)}: use a .tflite made "
            "by pb_2_tflite.py."
        )
    if not (lite.dtype == "float32" or lite.takes_pixels) or lite.output_dtype != "float32":
        raise FaceError(
            f"LiteRT.js needs a model with float32 input and output. '{model}' has {lite.dtype} input and "
            f"{lite.output_dtype} output: use a float, fp16 or dynamic model, such as from pb_2_tflite.py --mode "
            "dynamic."
        )
    return sidecar


def install_packages() -> Path:
    """The folder `node_modules` with the versions of package-lock.json. npm runs only if they are not installed."""
    packages, lock = HERE / "node_modules", HERE / "package-lock.json"
    done = packages / ".built_from"  # written last: an interrupted installation does not have it
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    if done.is_file() and done.read_text(encoding="utf-8") == digest:
        return packages
    argv = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        subprocess.run(argv, cwd=HERE, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise FaceError(
            "'npm', which installs LiteRT.js, is not on PATH. Install a recent version of Node.js with npm."
        ) from error
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.split())[-300:]
        raise FaceError(
            f"'{' '.join(argv)}' in '{HERE}' failed ({reason}). The installation needs access to the npm registry."
        ) from error
    done.write_text(digest, encoding="utf-8")
    return packages


def fill(folder: Path, model: Path, sidecar: Sidecar, decision: Decision, packages: Path) -> None:
    """Writes page, runtime, face detector, model, settings and synthetic faces into `folder`."""
    for name in PAGE:
        shutil.copyfile(HERE / name, folder / name)
    for source, name in RUNTIME.items():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(packages / source, folder / name)
    for source, name in DETECTOR.items():
        shutil.copyfile(WEIGHTS / source, folder / name)
    served = f"model-{sidecar.sha256[:12]}.tflite"  # named by content, so that a browser's cache cannot mix two builds
    shutil.copyfile(model, folder / served)
    examples = []
    for label, faces in EXAMPLES:
        files = []
        for identity, picture in faces:
            files.append(f"face_{identity}_{picture}.png")
            face = cv2.cvtColor(synthetic_face(0, identity, picture), cv2.COLOR_RGB2BGR)
            write_bytes(folder / files[-1], cv2.imencode(".png", face)[1].tobytes())
        examples.append({"label": label, "files": files})
    calibrated = decision.calibrated
    settings = {
        "model": served,
        "description": (
            f"Model: {model.name} ({sidecar.kind}, {model.stat().st_size / 2**20:.2f} MiB, SHA-256 "
            f"{sidecar.sha256[:12]}); training data: {sidecar.training_data or 'not stated'}; "
            f"licence: {sidecar.licence or 'not stated'}. "
            f"Runtime: LiteRT.js; face detector: BlazeFace and face mesh of MediaPipe, both Apache-2.0."
        ),
        "template": sidecar.rest.get("template", TEMPLATE_112),
        "threshold": decision.distance,
        "interval": calibrated and calibrated.distance_ci95,
        "flip": decision.flip,
        "decision": str(decision),
        "examples": examples,
    }
    write_json(folder / SETTINGS, settings)


if __name__ == "__main__":
    run_cli(main)

"""Make the network of five face points from MediaPipe's face mesh: facelib/alignment/weights/face_points.tflite.

    npm pack @mediapipe/face_mesh@0.4.1657299874 && tar xzf mediapipe-face_mesh-*.tgz
    python tools/make_face_points.py package/face_mesh_solution_packed_assets.data OUT.tflite

The last layer of the mesh is linear and gives 468 landmarks. The five points are means of landmarks. So the rows of
that layer can be averaged in the same way, without training. The new layer has 10 outputs instead of 1404, and the new
file has a third of the size. The rest is copied unchanged. The same input gives the same file, byte for byte.

The constant OFFSETS then moves the points to where InsightFace's detector puts its landmarks. The offsets are averages,
computed on 1,279 images of LFW that InsightFace cropped. Crops that resemble a person of the 150 test photos were left
out (cosine of the embeddings above 0.35).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
import hashlib
from collections.abc import Sequence

import numpy as np

from facelib.alignment.detect import POINTS_VIEW, VIEW_SIDE
from facelib.cli import run_cli, script_parser
from facelib.errors import FaceError
from facelib.files import require_file, write_bytes
from facelib.tensorflow_env import quiet_tensorflow

VERSION = "0.4.1657299874"  # of @mediapipe/face_mesh
START, STOP = 2495952, 3737848  # bytes of face_landmark.tflite in the packed assets
SOURCE = "c603fa6149219a3e9487dc9abd7a0c24474c77263273d24868378cdf40aa26d1"  # its SHA-256
NUM_LANDMARKS = 468
LANDMARKS, PRESENCE = "conv2d_21", "conv2d_31"  # names of the two outputs of the mesh
# Landmarks around the lids of the left and the right eye, as seen.
LEFT_EYE = (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246)
RIGHT_EYE = (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466)
# The five points are the means of these groups: eyes, nose, mouth corners.
GROUPS = (LEFT_EYE, RIGHT_EYE, (1, 4, 5), (61, 78), (291, 308))
OFFSETS = ((-0.06, 0.13), (1.25, 0.21), (0.55, 0.93), (-0.05, 1.66), (1.04, 1.73))  # (x, y), pixels of the template


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    parser.add_argument("assets", type=Path, help="face_mesh_solution_packed_assets.data of the npm package")
    parser.add_argument("out", type=Path, metavar="OUT.tflite", help="file to write")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    mesh = require_file(args.assets, "assets file").read_bytes()[START:STOP]
    if hashlib.sha256(mesh).hexdigest() != SOURCE:
        raise FaceError(
            f"The face mesh must be that of @mediapipe/face_mesh {VERSION}. '{args.assets}' holds a different mesh or "
            f"no mesh: download the right one with npm pack @mediapipe/face_mesh@{VERSION}."
        )
    data = replace_last_layer(mesh)
    write_bytes(args.out, data)
    print(f"wrote {args.out}: {len(data):,} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}")
    return 0


def replace_last_layer(mesh: bytes) -> bytes:
    """The .tflite of the mesh -> the .tflite of the five points, with outputs named `points` and `presence`."""
    quiet_tensorflow()
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(mesh))
    tensors = model.subgraphs[0].tensors
    named = {tensor.name.decode(): tensor for tensor in tensors}
    offsets = np.array(OFFSETS) * (POINTS_VIEW / VIEW_SIDE)
    for name, added in ((f"{LANDMARKS}/Kernel", np.zeros_like(offsets)), (f"{LANDMARKS}/Bias", offsets)):
        buffer = model.buffers[named[name].buffer]
        rows = mean_rows(np.frombuffer(bytes(buffer.data), "<f2").reshape(3 * NUM_LANDMARKS, -1))
        rows += added.reshape(-1, 1)
        buffer.data = np.frombuffer(rows.astype("<f2").tobytes(), np.uint8)
    for tensor in tensors:  # the layer's weights, their float32 copies, and its output
        shape = [2 * len(GROUPS) if size == 3 * NUM_LANDMARKS else size for size in tensor.shape]
        tensor.shape = np.array(shape, np.int32)
    named[LANDMARKS].name = b"points"
    named[PRESENCE].name = b"presence"
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def mean_rows(rows: np.ndarray) -> np.ndarray:
    """The rows of a linear layer that gives the means of groups of landmarks.

    Args:
        rows: float [1404, K]: x, y and depth of each landmark, in this order.

    Returns:
        float64 [10, K]: x and y of each of the five points.
    """
    landmarks = rows.astype(np.float64).reshape(NUM_LANDMARKS, 3, -1)
    return np.concatenate([landmarks[list(group), :2].mean(axis=0) for group in GROUPS])


if __name__ == "__main__":
    run_cli(main)

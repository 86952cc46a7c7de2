"""The search for faces in a photo: BlazeFace on overlapping squares of the photo gives boxes, eyes and mouths.

BlazeFace: Bazarevsky et al., https://arxiv.org/abs/1907.05047. The network sees 128x128 pixels and finds faces from an
eighth of that side. The squares start with the whole photo and become half as large at each step, down to the size in
which the smallest face is found. Only the whole photo is also searched after rotation by 90, 180 and 270 degrees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from facelib.errors import FaceError
from facelib.tensorflow_env import quiet_stderr

WEIGHTS = Path(__file__).parent / "weights"
FACE_BOXES, FACE_POINTS = "face_boxes.tflite", "face_points.tflite"


class DetectorNet:
    """One network of the face detector as a function: float32 [H, W, 3] -> list of its outputs, float32 [1, ...].

    Args:
        name: file in facelib/alignment/weights.
        outputs: names of the outputs, in the order in which the function returns them.

    Raises:
        FaceError: LiteRT is not installed.
    """

    def __init__(self, name: str, outputs: tuple[str, ...]):
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise FaceError(
                f"The face detector runs on LiteRT, which cannot be imported ({error}). Install it: pip install "
                '"mobilearc[board]", or in a checkout pip install ai-edge-litert.'
            ) from error

        with quiet_stderr():
            self._interpreter = Interpreter(model_path=str(WEIGHTS / name), num_threads=1)
            self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        places = {detail["name"]: detail["index"] for detail in self._interpreter.get_output_details()}
        self._outputs = [places[output] for output in outputs]

    def __call__(self, view: np.ndarray) -> list[np.ndarray]:
        self._interpreter.set_tensor(self._input, np.ascontiguousarray(view)[np.newaxis])
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


def probability(logits: np.ndarray) -> np.ndarray:
    """The logistic function in float64, without overflow."""
    return 1.0 / (1.0 + np.exp(-np.clip(np.asarray(logits, np.float64), -80, 80)))


VIEW = 128  # pixels: side of the network's input
SMALLEST_IN_VIEW = VIEW / 8  # pixels: the smallest face that BlazeFace finds
OVERLAP = 1 / 3  # of neighbouring squares, at least
MIN_SCORE = 0.5  # MediaPipe's: the score of a face
MIN_IOU = 0.3  # MediaPipe's: boxes with this intersection over union are averaged, because they show one face
SAME_FACE = 0.5  # if a larger share of the smaller of two boxes lies in the other box, they show one face
EYES_AND_MOUTH = [4, 5, 6, 7, 10, 11]  # places in a row of the network; without the nose, which moves with the pose


@dataclass(frozen=True)
class FaceBox:
    """A face as BlazeFace sees it, in pixels of the photo.

    Attributes:
        box: (x, y, width, height).
        points: float64 [3, 2], (x, y): left eye, right eye, mouth.
        score: 0 to 1.
    """

    box: tuple[float, float, float, float]
    points: np.ndarray
    score: float


class FaceSearch:
    """Finds the boxes of all faces in a photo. One face may be found several times, in several squares."""

    def __init__(self):
        self._net = DetectorNet(FACE_BOXES, ("regressors", "classificators"))

    def __call__(self, photo: np.ndarray, min_face: float, is_turned: bool = False) -> list[FaceBox]:
        """All boxes with a score of 0.5 or more, in any order.

        Args:
            photo: uint8 [H, W, 3] RGB.
            min_face: side of the smallest face, in pixels of the photo.
            is_turned: search every square in the three rotations by 90, 180 and 270 degrees, which takes three times as
                long; False searches it upright, and the whole photo in all four.
        """
        found = []
        whole = side = max(photo.shape[:2])
        smallest = min(whole, min_face * VIEW / SMALLEST_IN_VIEW)
        while True:
            for view, corner, scale in split_in_views(photo, side):
                for quarters in (1, 2, 3) if is_turned else range(4 if side == whole else 1):
                    for box, points, score in self._search_view(np.rot90(view, quarters)):
                        upright = rotate_back(np.array([box[:2], *points]), quarters)
                        centre, *points = (upright + corner) / scale - 0.5
                        size = box[2:] / scale
                        found.append(FaceBox((*(centre - size / 2), *size), np.array(points), score))
            if side <= smallest:
                return found
            side = max(side / 2, smallest)

    def _search_view(self, view: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, float]]:
        """The faces in one view, uint8 [VIEW, VIEW, 3].

        Returns:
            A list of (box, points, score) in pixels from the view's edge. box: float64 [4], x and y of the centre,
            width, height; points: float64 [3, 2].
        """
        rows, logits = self._net(view.astype(np.float32) / 127.5 - 1.0)
        scores = probability(logits[0, :, 0])
        kept = np.flatnonzero(scores >= MIN_SCORE)
        kept = kept[np.argsort(-scores[kept], kind="stable")]
        rows, scores = rows[0, kept].astype(np.float64), scores[kept]
        rows[:, :2] += ANCHORS[kept]  # a row holds centre, size and six points; places are relative to its anchor
        rows[:, 4:] += np.tile(ANCHORS[kept], 6)
        faces = []
        while len(rows):
            near = intersection_over_union(rows, rows[0]) >= MIN_IOU
            near[0] = True
            row = np.average(rows[near], axis=0, weights=scores[near])
            faces.append((row[:4], row[EYES_AND_MOUTH].reshape(3, 2), float(scores[0])))
            rows, scores = rows[~near], scores[~near]
        return faces


def anchor_centres() -> np.ndarray:
    """Centres of BlazeFace's 896 anchors, float64 [896, 2] in pixels: two at 16 x 16 places, then six at 8 x 8."""
    grids = []
    for places, anchors in ((16, 2), (8, 6)):
        middle = (np.arange(places) + 0.5) * (VIEW / places)
        grids.append(np.stack(np.meshgrid(middle, middle), axis=-1).reshape(-1, 2).repeat(anchors, axis=0))
    return np.concatenate(grids)


ANCHORS = anchor_centres()


def split_in_views(photo: np.ndarray, side: float) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Squares of the photo, each reduced or enlarged to the input of the network. They are black outside the photo.

    A place in the photo, in pixels from its edge, is `(place in the view + corner) / scale`.

    Args:
        photo: uint8 [H, W, 3].
        side: of a square, in pixels of the photo.

    Returns:
        A list of (view, corner, scale). view: uint8 [VIEW, VIEW, 3]; corner: int [2], x and y; scale: float [2].
    """
    full = np.array(photo.shape[1::-1])
    size = np.maximum(1, np.round(full * (VIEW / side))).astype(int)
    interpolation = cv2.INTER_AREA if side > VIEW else cv2.INTER_LINEAR
    copy = cv2.resize(photo, size.tolist(), interpolation=interpolation)
    left, top = np.maximum(0, VIEW - size) // 2
    right, bottom = np.maximum(0, VIEW - size - (left, top))
    copy = cv2.copyMakeBorder(copy, int(top), int(bottom), int(left), int(right), cv2.BORDER_CONSTANT, value=0)
    starts_y, starts_x = (_starts(length) for length in copy.shape[:2])
    return [
        (copy[y : y + VIEW, x : x + VIEW], np.array([x - left, y - top]), size / full)
        for y in starts_y
        for x in starts_x
    ]


def _starts(length: int) -> np.ndarray:
    """Where views start along a side of `length` pixels, evenly, from 0 to length - VIEW."""
    room = length - VIEW
    return np.linspace(0, room, int(np.ceil(room / (VIEW * (1 - OVERLAP)))) + 1).round().astype(int)


def rotate_back(points: np.ndarray, quarters: int) -> np.ndarray:
    """Places in `np.rot90(view, quarters)` -> the same places in the view.

    Args:
        points: float [N, 2], (x, y) in pixels from the edge of the rotated view.
        quarters: number of rotations by 90 degrees.
    """
    for _ in range(quarters):
        points = np.column_stack([VIEW - points[:, 1], points[:, 0]])
    return points


def intersection_over_union(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Intersection over union of each box with one, float [N].

    Args:
        boxes: float [N, 4 or more]: x and y of the centre, width, height.
        box: float [4 or more].
    """
    shared = intersection(boxes, box)
    return shared / (boxes[:, 2] * boxes[:, 3] + box[2] * box[3] - shared)


def intersection(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The area that each box shares with one, float [N]. Boxes are those of `intersection_over_union`."""
    low = np.maximum(boxes[:, :2] - boxes[:, 2:4] / 2, box[:2] - box[2:4] / 2)
    high = np.minimum(boxes[:, :2] + boxes[:, 2:4] / 2, box[:2] + box[2:4] / 2)
    return np.prod(np.maximum(0.0, high - low), axis=1)


def distinct(boxes: Sequence[tuple], scores: Sequence[float]) -> list[int]:
    """Indices of one box of each face, the best score first.

    Args:
        boxes: (x, y, width, height) each.
        scores: one per box. Of several boxes that show one face, the one with the best score stays.
    """
    centred = np.array([(x + w / 2, y + h / 2, w, h) for x, y, w, h in boxes]).reshape(-1, 4)
    areas = centred[:, 2] * centred[:, 3]
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        shared = intersection(centred[kept], centred[i]) / np.minimum(areas[kept], areas[i])
        if not (shared > SAME_FACE).any():
            kept.append(i)
    return kept

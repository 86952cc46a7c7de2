"""What a model takes as input: names, size, layout, colour order, pixel scaling, and where an aligned face lies."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facelib.errors import FaceError
from facelib.json_schema import check_json

# Landmarks of the 112x112 crop, pixels (x, y): left eye, right eye, nose, left and right mouth corner.
# Source: InsightFace, python-package/insightface/utils/face_align.py.
TEMPLATE_POINTS = ("left eye", "right eye", "nose", "left mouth corner", "right mouth corner")  # left in the image
TEMPLATE_112 = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))


# How pixels 0..255 are scaled before the input: (x - mean) / std, one number or three (RGB).
_Scaling = float | tuple[float, float, float]  # of all channels, or of each
PIXEL_SCALINGS: dict[str, tuple[_Scaling, _Scaling]] = {
    "raw": (0.0, 1.0),
    "pm1": (127.5, 128.0),  # InsightFace's mxnet nets and most mobile ones
    "pm1_exact": (127.5, 127.5),  # arcface_torch: -1..1 with both ends
    "unit": (0.0, 255.0),  # 0..1
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),  # 255 times torchvision's
}
SIDECAR_SCHEMA = Path(__file__).with_name("sidecar.schema.json")
IO_CHOICES = {
    "layout": ("nhwc", "nchw"), "colour": ("rgb", "bgr"), "pixels": tuple(PIXEL_SCALINGS), "fit": ("crop", "resize"),
}  # fmt: skip


@dataclass(frozen=True)
class Io:
    """How to feed an artefact.

    Attributes:
        input: name of the input tensor.
        output: name of the output tensor.
        dtype: type of the input, 'float32' | 'uint8' | 'int8'.
        layout: order of the axes, 'nhwc' | 'nchw'.
        colour: order of the channels, 'rgb' | 'bgr'.
        pixels: scaling of pixels before the input, a key of `PIXEL_SCALINGS`.
        size: (height, width) in pixels.
        fit: how a face of another size gets `size`: 'crop' cuts its centre, 'resize' scales it.
        embedding_size: number of values of an embedding; 0 when not known.
    """

    input: str = "input_1"
    output: str = "embeddings"
    dtype: str = "float32"
    layout: str = "nhwc"
    colour: str = "rgb"
    pixels: str = "raw"
    size: tuple[int, int] = (112, 112)
    fit: str = "crop"
    embedding_size: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The `io` object of a sidecar."""
        return {**self.__dict__, "size": list(self.size)}

    @classmethod
    def from_dict(cls, value: dict, where: Path | str) -> "Io":
        """Reads the `io` object of a sidecar.

        Args:
            value: the object; a missing key has its default, an unknown one is ignored.
            where: the file, named in the error.

        Raises:
            FaceError: a value that `sidecar.schema.json` does not allow.
        """
        check_json(value, SIDECAR_SCHEMA, where, "sidecar", "Make the artefact again.", definition="io")
        known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        return cls(**{**known, "size": tuple(known.get("size", cls.size))})


def scaling_of(io: Io) -> dict[str, list[float]]:
    """{"mean": [3], "std": [3]}: a model takes (x - mean) / std of pixels 0..255, in the order of its channels."""
    order = slice(None, None, 1 if io.colour == "rgb" else -1)
    mean, std = (np.broadcast_to(np.asarray(value, float), 3)[order].tolist() for value in PIXEL_SCALINGS[io.pixels])
    return {"mean": mean, "std": std}


def usual_fit(size: tuple[int, int]) -> str:
    """How a net of another input size than 112x112 takes an aligned face, if nothing else is known.

    A square net takes the whole face, scaled, as alignment tools make crops of other sizes. Another one takes the
    centre, as 112x96 is cut from 112x112.

    Args:
        size: (height, width) in pixels.

    Returns:
        'crop' or 'resize'; 'crop' for 112x112, where both are the same.
    """
    return "resize" if size[0] == size[1] and size != Io.size else "crop"


def to_model_input(images: np.ndarray, io: Io) -> np.ndarray:
    """Crops, reorders and scales faces as `io` says. Does not change `images`.

    Args:
        images: uint8 [N, H, W, 3], RGB.
        io: how the artefact is fed; see `fit_faces` for faces of another size than `io.size`.

    Returns: `io.dtype` [N, h, w, 3] or [N, 3, h, w], contiguous, scaled as `PIXEL_SCALINGS[io.pixels]` says. The
        ImageNet statistics follow the order of the channels.
    """
    pixels = fit_faces(images, io.size, io.fit)
    if io.pixels == "raw":
        values = pixels
    elif io.dtype == "uint8":
        raise FaceError(f"A uint8 input must have raw pixels. Received: pixels={io.pixels}. Use --pixels raw.")
    else:
        mean, std = (np.asarray(value, np.float32) for value in PIXEL_SCALINGS[io.pixels])
        values = (pixels.astype(np.float32) - mean) / std
    if io.colour == "bgr":
        values = values[..., ::-1]
    if io.layout == "nchw":
        values = values.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(values, dtype=io.dtype)


def fit_faces(images: np.ndarray, size: tuple[int, int], fit: str) -> np.ndarray:
    """Faces of the size that a model takes.

    Args:
        images: uint8 [N, H, W, 3].
        size: (height, width) in pixels that the model takes.
        fit: 'crop' cuts the centre (112x96 from 112x112); 'resize' scales the whole face, by pixel areas when it
            becomes smaller and bilinearly when it becomes larger.

    Returns:
        uint8 [N, *size, 3]; `images` itself, or a view, where no pixel changes.

    Raises:
        FaceError: a crop that would be larger than the faces.
    """
    if images.shape[1:3] == tuple(size):
        return images
    if fit == "crop":
        return crop_centre(images, size)
    import cv2

    way = cv2.INTER_AREA if size[0] * size[1] < images.shape[1] * images.shape[2] else cv2.INTER_LINEAR
    return np.stack([cv2.resize(image, (size[1], size[0]), interpolation=way) for image in images])


def crop_centre(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle (height, width) of images [N, H, W, 3], as a view."""
    height, width = images.shape[1:3]
    if size[0] > height or size[1] > width:
        raise FaceError(
            f"The model needs {size[0]}x{size[1]} pixels, but the faces have {height}x{width}, and a crop cannot be "
            "enlarged. Check --crop, or scale the faces: --fit resize (data.fit in a recipe)."
        )
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return images[:, top : top + size[0], left : left + size[1]]

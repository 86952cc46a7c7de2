"""Photos -> aligned faces: a 112x112 crop is taken as it is, any other photo is searched for a face first."""

import cv2
import numpy as np

from facelib.errors import BadRecord, FaceError
from facelib.images import read_size

CROP_SIZE = (112, 112)  # height, width in pixels: what every model here was trained on
MAX_PIXELS = 100_000_000  # the largest cameras; a header may claim any number, and decoding allocates it


class UnusablePhotoError(FaceError):
    """No face can be had from this photo: not an image, damaged, or nobody on it."""


def decode_photo(data: bytes, where: str) -> np.ndarray:
    """Any image that OpenCV reads -> uint8 [H, W, 3] RGB, turned upright as its EXIF tag says.

    `where` names the photo in errors, quoted.

    Raises:
        UnusablePhotoError: empty, cut short, no image, or one that claims more than `MAX_PIXELS`.
    """
    if data[:2] == b"\xff\xd8" or data[:4] == b"\x89PNG" or not data:
        try:
            height, width = read_size(data)
        except BadRecord as error:
            raise UnusablePhotoError(f"A photo is a whole image file. {where}: {error}. Copy it again.") from error
        if height * width > MAX_PIXELS:
            raise UnusablePhotoError(
                f"A photo has at most {MAX_PIXELS:,} pixels. {where} says {height}x{width}: make it smaller."
            )
    try:
        photo = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        photo = None
    if photo is None:
        raise UnusablePhotoError(f"A photo is a JPEG, PNG or other image file. {where} is none that can be read.")
    return photo


class FaceCutter:
    """Encoded photo -> uint8 [112, 112, 3] RGB. The detector is loaded by the first photo that is not a crop."""

    def __init__(self):
        self._detector = None

    def __call__(self, data: bytes, where: str) -> np.ndarray:
        """The crop itself, or the largest face of a photo of any other size, aligned.

        Raises:
            UnusablePhotoError: see `decode_photo`; or no face was found.
        """
        photo = decode_photo(data, where)
        if photo.shape[:2] == CROP_SIZE:
            return photo
        face = self._align(photo)
        if face is None:
            raise UnusablePhotoError(
                f"A photo shows a face. None was found in {where} ({photo.shape[0]}x{photo.shape[1]}): "
                f"take one with a larger, upright face."
            )
        return face

    def _align(self, photo: np.ndarray) -> np.ndarray | None:
        from facelib.alignment.align import align_photo

        if self._detector is None:
            from facelib.alignment.detect import FaceDetector

            self._detector = FaceDetector()
        return align_photo(photo, self._detector)

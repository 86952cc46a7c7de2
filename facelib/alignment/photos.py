"""Decodes photos, turns each into an aligned 112x112 face, and names its crop."""

import os
from collections import Counter

import numpy as np

from facelib.errors import BadRecord, FaceError
from facelib.image_decoding import decode_image
from facelib.photo_folders import PhotoFolder

CROP_SIZE = (112, 112)  # height, width in pixels: what every model here was trained on


class UnusablePhotoError(FaceError):
    """A photo that gives no face: not an image, damaged, or without a face."""


def decode_photo(data: bytes, where: str) -> np.ndarray:
    """Any image that OpenCV reads -> uint8 [H, W, 3] RGB, turned upright as its EXIF orientation says.

    Args:
        data: the bytes of the image file.
        where: the photo's name in errors, quoted.

    Raises:
        UnusablePhotoError: empty, cut short, no image, or too large to decode.
    """
    try:
        return decode_image(data)
    except BadRecord as error:
        raise UnusablePhotoError(f"A photo is a JPEG, PNG or other image file. {where}: {error}.") from error


class FaceCutter:
    """Encoded photo -> uint8 [112, 112, 3] RGB. The detector is loaded for the first photo that is not a crop."""

    def __init__(self):
        self._detector = None

    def __call__(self, data: bytes, where: str) -> np.ndarray:
        """A 112x112 photo as it is; of any other photo the largest face, aligned.

        Args:
            data: the bytes of the image file.
            where: the photo's name in errors, quoted.

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


def crop_names(folder: PhotoFolder) -> dict[str, str]:
    """The name of each photo's crop: `a.jpg` for `a.png`, or `a.png.jpg` if the folder has another photo called `a`.

    Raises:
        FaceError: two crops would still have the same name.
    """
    count = Counter(os.path.splitext(photo)[0] for photo in folder.photos)
    names = {}
    for photo in folder.photos:
        stem = os.path.splitext(photo)[0]
        names[photo] = (stem if count[stem] == 1 else photo) + ".jpg"
    twice = [name for name, times in Counter(names.values()).items() if times > 1]
    if twice:
        of = " and ".join(f"'{os.path.join(folder.name, photo)}'" for photo in names if names[photo] == twice[0])
        raise FaceError(f"Two crops cannot have the same name. {of} would both be '{twice[0]}': rename one.")
    return names

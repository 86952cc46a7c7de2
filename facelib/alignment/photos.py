"""Decodes photos, turns each into an aligned 112x112 face, and names its crop."""

import os
import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from facelib.errors import BadRecord, FaceError
from facelib.image_decoding import decode_image
from facelib.photo_folders import PhotoFolder

if TYPE_CHECKING:
    from facelib.alignment.align import Crop, Detector

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
        raise UnusablePhotoError(f"A photo must be a JPEG, PNG or other image file. {where}: {error}.") from error


class PhotoFaces(NamedTuple):
    """The faces that were taken from a photo.

    Attributes:
        crops: one, or all with the rule 'all'; at least one.
        num_faces: how many faces the photo shows.
    """

    crops: list["Crop"]
    num_faces: int


class FaceCutter:
    """Encoded photo -> aligned faces, by one detector and one rule. It is loaded for the first photo that is no crop.

    Args:
        rule: which face of a photo with several, see `facelib.alignment.align.rank_faces`.
        min_quality: faces of a lower quality are refused, see `facelib.alignment.quality`.
    """

    def __init__(self, rule: str = "central", min_quality: float = 0.0):
        self.rule, self.min_quality = rule, min_quality
        self._detector: Detector | None = None

    def __call__(self, data: bytes, where: str) -> np.ndarray:
        """The first face of `cut`: uint8 [112, 112, 3] RGB."""
        return self.cut(data, where).crops[0].pixels

    def cut(self, data: bytes, where: str) -> PhotoFaces:
        """A photo of 112x112 pixels as it is; the faces of any other photo, aligned.

        Args:
            data: the bytes of the image file.
            where: the photo's name in errors, quoted.

        Raises:
            UnusablePhotoError: see `decode_photo`; or no face was found, or none of the quality that is asked for.
        """
        from facelib.alignment.align import whole_crop

        photo = decode_photo(data, where)
        if photo.shape[:2] == CROP_SIZE:
            crops, num_faces = [whole_crop(photo)], 1
        else:
            crops, num_faces = self._find(photo)
        if not crops:
            raise UnusablePhotoError(
                f"A photo must show a face. No face was found in {where} ({photo.shape[0]}x{photo.shape[1]}): use a "
                "photo with a larger face."
            )
        good = [crop for crop in crops if crop.quality.score >= self.min_quality]
        if not good:
            raise UnusablePhotoError(
                f"The quality of a face must be at least {self.min_quality:g}. {where} has {crops[0].quality}: use a "
                "different photo, or lower --min-quality."
            )
        return PhotoFaces(good, num_faces)

    def _find(self, photo: np.ndarray) -> tuple[list["Crop"], int]:
        from facelib.alignment.align import cut_faces

        if self._detector is None:
            from facelib.alignment.detect import FaceDetector

            self._detector = FaceDetector()
        return cut_faces(photo, self._detector, self.rule)


def crop_names(folder: PhotoFolder, has_further: bool = False) -> dict[str, str]:
    """The name of each photo's crop: `a.jpg` for `a.png`, or `a.png.jpg` if the folder has another photo called `a`.

    Args:
        folder: the photos.
        has_further: whether further faces of a photo have crops too, see `further_crop`.

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
        raise FaceError(
            f"Two crops must not have the same name. {of} would both become '{twice[0]}': rename one photo."
        )
    if has_further:
        _check_further(folder, names)
    return names


def _check_further(folder: PhotoFolder, names: dict[str, str]) -> None:
    """Refuses a photo whose crop has a name that a further face of another photo may need."""
    photos = {crop: photo for photo, crop in names.items()}
    for crop, photo in photos.items():
        further = re.fullmatch(r"(.*)\.face\d+\.jpg", crop, re.DOTALL)
        if further and (other := photos.get(f"{further[1]}.jpg")):
            raise FaceError(
                f"Two crops must not have the same name. '{os.path.join(folder.name, photo)}' has the name that the "
                f"crop of a second face in '{os.path.join(folder.name, other)}' may get: rename this photo."
            )


def further_crop(crop: str, number: int) -> str:
    """The name of the crop of another face of the photo: `a.face2.jpg` beside `a.jpg`; number: 2 or more."""
    return f"{crop.removesuffix('.jpg')}.face{number}.jpg"

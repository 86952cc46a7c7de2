"""Is every image of a source whole, and of the right size? By its header and end, or by decoding it."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from facelib.image_header import read_size
from facelib.sources import Source
from facelib.tfrecord import BadRecord


class ImageChecker:
    """Reads records and checks that each is a whole image of `size` (height, width); a call keeps their order.

    A bad one is returned as the `BadRecord` that says why.

    Args:
        decode_threads: decode each image as a check, on so many threads; 0 for its header and end alone.
        read_threads: that call `source.read`, for one that does more than read.
    """

    def __init__(self, source: Source, size: tuple[int, int], decode_threads: int = 0, read_threads: int = 0):
        self.source, self.size = source, tuple(size)
        self._decoders = ThreadPoolExecutor(decode_threads) if decode_threads else None
        self._readers = ThreadPoolExecutor(read_threads) if read_threads else None

    def __call__(self, records: list[int]) -> list[bytes | BadRecord]:
        images = list(self._readers.map(self._read, records) if self._readers else map(self._read, records))
        return list(self._decoders.map(_decode_check, images)) if self._decoders else images

    def _read(self, i: int) -> bytes | BadRecord:
        try:
            image = self.source.read(i)
            found = read_size(image)
            if found == self.size:
                return image
            (height, width), (wanted_height, wanted_width) = found, self.size
            return BadRecord(
                f"the image is {height}x{width}, but all must be {wanted_height}x{wanted_width}: "
                "align photos with align_faces.py"
            )
        except BadRecord as error:
            return error


def _decode_check(image: bytes | BadRecord) -> bytes | BadRecord:
    if isinstance(image, BadRecord):
        return image
    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    return BadRecord("the image cannot be decoded") if pixels is None else image

"""Is every image of a source whole, and of the right size? By its header and end, or by decoding it."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from facelib.data.readers.sources import Source
from facelib.errors import BadRecord
from facelib.images import read_size

_PIECE = 64  # records that a worker reads at once


class ImageChecker:
    """Reads records and checks that each is a whole image of `size` (height, width); a call keeps their order.

    A bad one is returned as the `BadRecord` that says why.

    Args:
        decode: decode each image as a check, instead of looking at its header and end alone.
        workers: threads of `stream`. They help where the disk answers late, and where images are decoded.
    """

    def __init__(self, source: Source, size: tuple[int, int], decode: bool = False, workers: int = 1):
        self.source, self.size, self.decode, self.workers = source, tuple(size), decode, workers

    def __call__(self, records: list[int]) -> list[bytes | BadRecord]:
        images = list(map(self._read, records))
        return list(map(_decode_check, images)) if self.decode else images

    def stream(self, records: np.ndarray) -> Iterator[list[bytes | BadRecord]]:
        """The images of int [N] records, piece by piece in their order; workers are a few pieces ahead."""
        pieces = (records[k : k + _PIECE].tolist() for k in range(0, len(records), _PIECE))
        if self.workers == 1:
            yield from map(self, pieces)
            return
        executor, pending = ThreadPoolExecutor(self.workers, thread_name_prefix="read"), deque()
        try:
            for piece in pieces:
                pending.append(executor.submit(self, piece))
                if len(pending) > 2 * self.workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

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

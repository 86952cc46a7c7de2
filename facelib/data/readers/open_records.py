"""Opens whatever train.py reads: a data directory here or in object storage, or TFRecords of an older system."""

from pathlib import Path

from facelib.data.data_dir import INDEX, META, WrongIndexError, is_data_dir, open_data_dir
from facelib.data.readers.older_tfrecords import open_older
from facelib.data.record_reader import Records
from facelib.data.storage import StoredPath, copy_to_cache, data_path
from facelib.errors import FaceError


def open_records(path: Path | StoredPath) -> Records:
    """Opens training data.

    A data directory opens at once. Older TFRecords have no index, so every record is read: about 34,000 a second.

    Args:
        path: a data directory, here or in object storage; an older TFRecord file, a folder of them, or the index text
            file of a TFace set.

    Raises:
        FaceError: nothing there, cut short, or sizes and hashes that disagree with meta.json.
    """
    path = data_path(path)
    if isinstance(path, StoredPath):
        return _open_stored(path)
    if is_data_dir(path):
        return open_data_dir(path, path)
    if not path.exists():
        raise FaceError(f"No training data at '{path}'. Make them with: python prepare_data.py SOURCE {path}")
    return open_older(path)


def _open_stored(path: StoredPath) -> Records:
    folder = copy_to_cache(path, META, INDEX)
    try:
        return open_data_dir(folder, path)
    except WrongIndexError:  # damaged here, or copied while someone wrote it there
        (folder / INDEX).unlink(missing_ok=True)
        return open_data_dir(copy_to_cache(path, META, INDEX), path)

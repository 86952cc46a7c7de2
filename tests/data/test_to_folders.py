"""A data directory written as identity folders again. Truth: the images and names that went in."""

import numpy as np
import pytest

from facelib.data.conversion.to_folders import export_folders, folder_names
from facelib.errors import BadRecord, FaceError


class MemorySource:
    """Four images of two identities."""

    path = "memory"

    def __init__(self, class_names, images=(b"\xff\xd8one", b"\x89PNGtwo", b"\xff\xd8three", b"\xff\xd8four")):
        self.class_names, self.images, self.labels = class_names, images, np.array([1, 0, 1, 1])

    def __len__(self):
        return len(self.images)

    def read(self, i):
        if self.images[i] is None:
            raise BadRecord("it is lost")
        return self.images[i]

    def describe(self, i):
        return f"image {i}"


def test_every_image_keeps_its_bytes_in_the_folder_of_its_identity(tmp_path):
    assert export_folders(MemorySource(["ann", "bob/two"]), tmp_path / "out", progress=False) == 4

    found = {path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in tmp_path.rglob("*.*g")}
    assert found == {
        "bob/two/00000000.jpg": b"\xff\xd8one",
        "ann/00000001.png": b"\x89PNGtwo",
        "bob/two/00000002.jpg": b"\xff\xd8three",
        "bob/two/00000003.jpg": b"\xff\xd8four",
    }


def test_a_bad_record_is_named_and_no_folder_is_left(tmp_path):
    source = MemorySource(["a", "b"], (b"\xff\xd8", None, b"\xff\xd8", b"\xff\xd8"))

    with pytest.raises(FaceError, match="image 1: it is lost"):
        export_folders(source, tmp_path / "out", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FaceError, match="choose a different name"):
        export_folders(MemorySource(["a", "b"]), tmp_path, progress=False)


def test_numbers_are_padded_so_that_folders_sort_as_labels_do():
    assert folder_names(["0", "7", "12"]) == ["00", "07", "12"]
    assert folder_names(["1", "01"]) == ["1", "01"]  # padded they would be one folder
    assert folder_names(["7", "ann"]) == ["7", "ann"]


@pytest.mark.parametrize("name", ["/etc", "../up", "a/../../b", ".hidden", "a/.b", "", "nul\0"])
def test_a_class_name_that_leaves_the_folder_is_refused(name):
    with pytest.raises(FaceError, match="must be a valid folder name"):
        folder_names(["ann", name])


@pytest.mark.parametrize("name", ["x" * 256, "ann/" + "ä" * 128, "1" * 300])
def test_a_class_name_that_no_folder_can_have_is_refused(name):
    with pytest.raises(FaceError, match="at most 255 bytes"):
        folder_names(["1", name])
    assert folder_names(["x" * 255, "ann/" + "ä" * 127]) == ["x" * 255, "ann/" + "ä" * 127]

"""Writing an .h5 on a full disk. A limit of the file size stands for it: it needs no rights."""

import resource

import keras
import pytest

from facelib.runtimes.keras_h5 import save_h5


def test_a_full_disk_is_an_error_and_leaves_the_file_before_it(tmp_path):
    path = tmp_path / "embedder.h5"
    path.write_bytes(b"the last checkpoint")
    model = keras.Sequential([keras.Input((1000,)), keras.layers.Dense(1000)])  # 4 MB
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(OSError, match=r"embedder\.h5|too large"):
            save_h5(model, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert path.read_bytes() == b"the last checkpoint"
    assert [file.name for file in tmp_path.iterdir()] == ["embedder.h5"]

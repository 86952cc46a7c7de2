"""TFLite models: their operations as read from the file, values inside, types of input and output, and bad files."""

import numpy as np
import pytest
import tensorflow as tf

from facelib.errors import FaceError
from facelib.model_input import Io
from facelib.runtimes.tflite import Lite, TfliteEmbedder, Watched, read_ops

KERNEL = np.arange(3 * 3 * 3 * 4, dtype=np.float32).reshape(3, 3, 3, 4) / 100


@pytest.fixture(scope="module")
def model():
    """The bytes of: convolution 3x3 at stride 2 with ReLU6, flattened. Input [1, 8, 8, 3]."""

    def forward(pixels):
        with tf.name_scope("net"), tf.name_scope("stem"):
            y = tf.nn.relu6(tf.nn.conv2d(pixels, KERNEL, 2, "VALID"))
        return tf.identity(tf.reshape(y, [1, -1]), name="embeddings")

    spec = tf.TensorSpec([1, 8, 8, 3], tf.float32, name="input_1")
    function = tf.function(forward).get_concrete_function(spec)
    return tf.lite.TFLiteConverter.from_concrete_functions([function]).convert()


@pytest.fixture
def pixels():
    return np.random.default_rng(0).uniform(0, 1, (1, 8, 8, 3)).astype(np.float32)


def expected_map(pixels):
    """The convolution by its definition in NumPy: [1, 3, 3, 4]."""
    out = np.zeros((1, 3, 3, 4))
    for row in range(3):
        for column in range(3):
            window = pixels[0, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            out[0, row, column] = np.einsum("hwc,hwcf->f", window.astype(float), KERNEL)
    return np.clip(out, 0, 6)


def test_the_operations_are_read_with_their_shapes_constants_and_options(model):
    convolution, reshape = read_ops(model)

    assert (convolution.kind, reshape.kind) == ("CONV_2D", "RESHAPE")
    assert convolution.inputs[0].shape == (1, 8, 8, 3) and convolution.output.shape == (1, 3, 3, 4)
    assert convolution.inputs[0].data is None and convolution.inputs[0].dtype == "FLOAT32"
    np.testing.assert_array_equal(convolution.inputs[1].data, KERNEL.transpose(3, 0, 1, 2))
    assert (convolution.options["strideH"], convolution.options["padding"]) == (2, 1)  # 1 is VALID
    assert convolution.layer == "stem"
    assert reshape.inputs[0].index == convolution.output.index


def test_the_values_inside_are_those_of_the_definition(model, pixels):
    watched = Watched(model)

    watched.run(pixels)

    convolution, reshape = watched.ops
    np.testing.assert_allclose(watched.value(convolution.output), expected_map(pixels), rtol=1e-5)
    np.testing.assert_allclose(watched.value(reshape.output), expected_map(pixels).reshape(1, -1), rtol=1e-5)


def test_a_file_and_its_bytes_give_the_same(model, pixels, tmp_path):
    (tmp_path / "x.tflite").write_bytes(model)

    np.testing.assert_array_equal(Lite(tmp_path / "x.tflite")(pixels), Lite(model)(pixels))
    assert [op.kind for op in read_ops(tmp_path / "x.tflite")] == [op.kind for op in read_ops(model)]


def test_an_embedder_takes_any_number_of_faces(model, tmp_path):
    (tmp_path / "x.tflite").write_bytes(model)
    faces = np.random.default_rng(1).integers(0, 256, (5, 112, 112, 3), np.uint8)
    embed = TfliteEmbedder(tmp_path / "x.tflite", Io(size=(8, 8)), threads=2)

    together = embed.raw(faces)

    middle = faces[:, 52:60, 52:60].astype(np.float32)  # the crop that io.size says
    expected = np.concatenate([expected_map(face[None]).reshape(1, -1) for face in middle])
    np.testing.assert_allclose(together, expected, rtol=1e-5)
    np.testing.assert_array_equal(embed.raw(faces[3:4]), together[3:4])


def test_a_model_of_another_size_is_refused(model, tmp_path):
    (tmp_path / "x.tflite").write_bytes(model)

    with pytest.raises(FaceError, match=r"needs \[1, 8, 8, 3\], but the faces have \[112, 112, 3\]: check --crop"):
        TfliteEmbedder(tmp_path / "x.tflite", Io())


def test_a_wrong_name_is_no_error_where_there_is_only_one_tensor(model, pixels):
    """Converters rename inputs and outputs."""
    np.testing.assert_array_equal(Lite(model, input="data", output="fc1")(pixels), Lite(model)(pixels))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" * 9, b"\x1c\0\0\0TFL3" + bytes(40)])
def test_a_file_that_is_no_model_is_one_line(content, tmp_path):
    (tmp_path / "x.tflite").write_bytes(content)

    for opened in (Lite, read_ops):
        with pytest.raises(FaceError) as caught:
            opened(tmp_path / "x.tflite")
        assert "x.tflite" in str(caught.value) and "\n" not in str(caught.value)

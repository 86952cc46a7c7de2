"""ONNX models as they come: types of their input, and files that are damaged."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from facelib.errors import FaceError
from facelib.model_input import Io
from facelib.runtimes.onnx import OnnxEmbedder

WEIGHTS = np.random.default_rng(0).normal(0, 0.01, (3 * 8 * 8, 4)).astype(np.float32)
FACES = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 3), np.uint8)


def onnx_file(path, dtype=TensorProto.FLOAT):
    """Pixels [N, 3, 8, 8] of `dtype` -> pixels @ WEIGHTS, of `dtype` or of float32 for integers."""
    gives = dtype if dtype in (TensorProto.FLOAT16, TensorProto.DOUBLE) else TensorProto.FLOAT
    nodes = [helper.make_node("Cast", ["pixels"], ["x"], to=gives), helper.make_node("Flatten", ["x"], ["flat"]),
             helper.make_node("MatMul", ["flat", "w"], ["embeddings"])]  # fmt: skip
    weights = numpy_helper.from_array(WEIGHTS.astype(helper.tensor_dtype_to_np_dtype(gives)), "w")
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("pixels", dtype, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("embeddings", gives, ["N", 4])],
        [weights],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.UINT8])
def test_the_faces_come_in_the_type_that_the_model_takes(tmp_path, dtype):
    embedder = OnnxEmbedder(onnx_file(tmp_path / "m.onnx", dtype), Io(layout="nchw", size=(8, 8)))

    expected = FACES.transpose(0, 3, 1, 2).reshape(5, -1) @ WEIGHTS
    np.testing.assert_allclose(embedder.raw(FACES), expected, rtol=0.01, atol=0.05)


def test_scaled_pixels_do_not_fit_into_uint8_and_other_types_are_named(tmp_path):
    path = onnx_file(tmp_path / "m.onnx", TensorProto.UINT8)
    with pytest.raises(FaceError, match="--pixels raw"):
        OnnxEmbedder(path, Io(layout="nchw", size=(8, 8), pixels="pm1")).raw(FACES)
    with pytest.raises(FaceError, match=r"m\.onnx.*int64"):
        OnnxEmbedder(onnx_file(path, TensorProto.INT64), Io(layout="nchw", size=(8, 8)))


@pytest.mark.parametrize("seed", range(30))
def test_a_changed_byte_is_one_line_or_no_matter(tmp_path, seed):
    path, rng = onnx_file(tmp_path / "m.onnx"), np.random.default_rng(seed)
    data = bytearray(path.read_bytes())
    data[rng.integers(120)] = rng.integers(256)
    path.write_bytes(data[: rng.integers(1, len(data))] if seed % 5 == 0 else data)

    try:
        OnnxEmbedder(path, Io(layout="nchw", size=(8, 8))).raw(FACES)
    except FaceError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("place", ["../secret", "{folder}/secret", "link"])
def test_a_model_reads_no_file_outside_its_folder(tmp_path, place):
    (tmp_path / "secret").write_bytes(np.zeros(4, np.float32).tobytes())
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "link").symlink_to("../secret")
    weights = TensorProto(name="w", dims=[1, 4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", place.format(folder=tmp_path)), ("offset", "0"), ("length", "16")):
        weights.external_data.add(key=key, value=value)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in ("pixels", "embeddings")]
    graph = helper.make_graph(
        [helper.make_node("Add", ["pixels", "w"], ["embeddings"])], "net", *[[e] for e in ends], [weights]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "m" / "x.onnx").write_bytes(model.SerializeToString())

    with pytest.raises(FaceError, match="cannot load"):
        OnnxEmbedder(tmp_path / "m" / "x.onnx", Io(size=(8, 8), layout="nchw"))


@pytest.mark.parametrize("shape", [[1, 192], [1, -1]])
def test_a_free_batch_that_is_one_face_inside_is_run_face_by_face(tmp_path, capfd, shape):
    """InsightFace's torch2onnx.py renames the first axis after the export, and a reshape keeps the batch of 1."""
    model = onnx.load(onnx_file(tmp_path / "m.onnx"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(shape), "shape"))
    flatten = next(node for node in model.graph.node if node.op_type == "Flatten")
    flatten.op_type, flatten.input[:] = "Reshape", [*flatten.input, "shape"]
    onnx.save(model, tmp_path / "m.onnx")
    embedder = OnnxEmbedder(tmp_path / "m.onnx", Io(layout="nchw", size=(8, 8)), batch_size=2)

    expected = FACES.transpose(0, 3, 1, 2).reshape(5, -1) @ WEIGHTS
    np.testing.assert_allclose(embedder.raw(FACES), expected, rtol=0.01, atol=0.05)
    assert capfd.readouterr() == (
        "note: 'm.onnx' declares a free batch size but can run only one face, so the faces are run one by one\n",
        "",
    )

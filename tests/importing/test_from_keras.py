"""Nets of Keras 2 become ours: the same embeddings from raw RGB pixels, against plain TensorFlow."""

import numpy as np
import pytest

import import_model
from facelib.errors import FaceError
from facelib.files import read_json, write_json
from facelib.runtimes.keras_h5 import load_head_centres, load_model
from facelib.sidecar import check_sidecar
from tests.helpers.keras2_files import DIM, SIZE, Keras2Net
from tests.helpers.slow import slow_unless_quick

FACES = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.float32)
PM1 = (FACES - 127.5) / 127.5
# lambda x: K.l2_normalize(x, axis=1), as Python 3.6 stored it
NORMALISE = ("4wEAAAAAAAAAAQAAAAQAAABDAAAAcw4AAAB0AGoBfABkAWQCjQJTACkDTukBAAAAKQHaBGF4aXMpAtoBS9oMbDJfbm9ybWFsaXpl"
             "KQHaAXipAHIGAAAA+hEvdG1wL2Fycml2ZS9tay5wedoIPGxhbWJkYT4DAAAAcwAAAAA=")  # fmt: skip


def run(source, out, *flags):
    assert import_model.main([str(source), str(out), "--pixels", "pm1_exact", *flags]) == 0
    return load_model(out)


def embeddings(model):
    return model(FACES, training=False).numpy()


@pytest.mark.parametrize("slopes", ["channel", "pixel"])
def test_a_net_of_keras_2_gives_its_embeddings_from_raw_pixels(tmp_path, slopes):
    net = Keras2Net(slopes).body()

    model = run(net.save(tmp_path / "net.h5"), tmp_path / "out.h5", "--licence", "MIT")

    np.testing.assert_allclose(embeddings(model), net.expected(PM1), atol=1e-4)
    assert (model.inputs[0].name, model.layers[-1].name) == ("input_1", "embeddings")
    kinds = {type(layer).__name__ for layer in model.layers}
    assert "SeparableConv2D" not in kinds and {"PixelScale", "FusedBatchNorm", "ReLU"} <= kinds
    sidecar = check_sidecar(tmp_path / "out.h5")
    assert (sidecar.io.pixels, sidecar.io.size, sidecar.io.embedding_size) == ("raw", (SIZE, SIZE), DIM)
    assert sidecar.licence == "MIT" and sidecar.rest["imported"]["pixels"] == "pm1_exact"


def test_a_net_of_bgr_takes_rgb(tmp_path):
    net = Keras2Net().body()

    model = run(net.save(tmp_path / "net.h5"), tmp_path / "out.h5", "--color", "bgr")

    np.testing.assert_allclose(embeddings(model), net.expected(PM1[..., ::-1]), atol=1e-4)


def test_a_lambda_that_normalises_is_known_by_its_names_and_cut_off(tmp_path, capsys):
    net = Keras2Net().body()
    net.add("Lambda", "l2", function=[NORMALISE, None, None], function_type="lambda", arguments={})

    model = run(net.save(tmp_path / "net.h5"), tmp_path / "out.h5")

    np.testing.assert_allclose(embeddings(model), net.expected(PM1), atol=1e-4)
    assert "normalisation 'l2' was left out" in capsys.readouterr().out


def heads():
    def keras_insightface(net):
        return net.head("arcface"), None

    def with_labels(net):
        at = net.at
        net.add("InputLayer", "labels", [], batch_input_shape=[None, 7])
        return net.head("loss", "ArcFaceLossLayer", inbound=[[[at, 0, 0, {}], ["labels", 0, 0, {}]]]), None

    def two_outputs(net):
        net.add("Lambda", "l2", function=[NORMALISE, None, None], function_type="lambda", arguments={})
        return net.head("ArcMargin", "ArcMarginProduct"), ["ArcMargin", "l2"]

    def softmax(net):
        return net.add("Dense", "classes", units=7, activation="softmax", use_bias=False,
                       weights=[("kernel", net.normal(DIM, 7))]), None  # fmt: skip

    return {"NormDense": keras_insightface, "ArcFaceLossLayer": with_labels, "ArcMarginProduct": two_outputs,
            "softmax head": softmax}  # fmt: skip


@pytest.mark.parametrize("kind", slow_unless_quick(heads(), ["NormDense", "softmax head"]))
def test_the_head_of_a_training_model_is_cut_off_with_one_line(tmp_path, capsys, kind):
    net, outputs = heads()[kind](Keras2Net().body())

    model = run(net.save(tmp_path / "net.h5", outputs), tmp_path / "out.h5")

    np.testing.assert_allclose(embeddings(model), net.expected(PM1), atol=1e-4)
    head = next(layer["name"] for layer in net.layers if layer["name"] in ("arcface", "loss", "ArcMargin", "classes"))
    np.testing.assert_array_equal(load_head_centres(tmp_path / "out.h5"), net.weights[head][0].T)
    assert read_json(tmp_path / "classes.json", "classes")["class_names"] == list("0123456")
    printed = capsys.readouterr().out
    assert any(kind in line for line in printed.splitlines() if "left out" in line)
    assert f'[model]\nbackbone = "imported"\nfrom = "{tmp_path}/out.h5"\n' in printed


def test_nets_within_a_net_are_opened(tmp_path):
    net = Keras2Net().body()
    inner = {**net.config(), "name": "net", "class_name": "Functional",
             "inbound_nodes": [[["faces", 0, 0, {}]]]}  # fmt: skip
    outer = Keras2Net()
    outer.layers[0]["name"] = outer.layers[0]["config"]["name"] = "faces"
    outer.names, outer.weights = {"faces": []}, {"faces": []}
    outer.layers.append(inner)
    trained = ("kernel", "gamma", "beta", "alpha", "bias")
    both = [(name, value) for layer in net.layers for name, value in
            zip(net.names[layer["name"]], net.weights[layer["name"]], strict=True)]  # fmt: skip
    both.sort(key=lambda pair: not any(word in pair[0].split("/")[1] for word in trained))  # Keras stores these first
    outer.names["net"], outer.weights["net"] = [name for name, _ in both], [value for _, value in both]
    outer.add("Activation", "end", [[["net", 1, 0, {}]]], activation="linear")

    model = run(outer.save(tmp_path / "net.h5"), tmp_path / "out.h5")

    np.testing.assert_allclose(embeddings(model), net.expected(PM1), atol=1e-4)
    assert model.get_layer("bn") is not None


def test_without_flags_the_pixels_are_asked_for(tmp_path):
    source = Keras2Net().body().save(tmp_path / "net.h5")

    with pytest.raises(FaceError, match=r"--pixels raw\|pm1\|pm1_exact.*--color bgr"):
        import_model.main([str(source), str(tmp_path / "out.h5")])
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize("change, match", [
    (lambda net: net.layers[4]["config"].update(groups=2), "'sep' is a SeparableConv2D with 'groups' = 2"),
    (lambda net: net.layers[5]["config"].update(activation="my_relu"), "'relu6' has the activation 'my_relu'"),
    (lambda net: net.layers[5].update(class_name="Mystery"), "'relu6' of the class 'Mystery'.*ONNX"),
])  # fmt: skip
def test_what_has_no_counterpart_is_named(tmp_path, change, match):
    net = Keras2Net().body()
    change(net)

    with pytest.raises(FaceError, match=match) as refusal:
        import_model.main([str(net.save(tmp_path / "net.h5")), str(tmp_path / "out.h5"), "--pixels", "pm1"])
    assert "\n" not in str(refusal.value)


def test_the_hard_sigmoid_of_keras_2_is_another_function_than_that_of_keras_3(tmp_path):
    net = Keras2Net().body()
    net.add("Activation", "gate", activation="hard_sigmoid")

    model = run(net.save(tmp_path / "net.h5"), tmp_path / "out.h5")

    np.testing.assert_allclose(embeddings(model), np.clip(0.2 * net.expected(PM1) + 0.5, 0, 1), atol=1e-5)


def test_centres_are_left_out_where_classes_json_names_others(tmp_path, capsys):
    net = Keras2Net().body().head("arcface")
    write_json(tmp_path / "classes.json", {"class_names": ["Ann", "Bo"]})

    run(net.save(tmp_path / "net.h5"), tmp_path / "out.h5")

    assert load_head_centres(tmp_path / "out.h5") is None
    assert "7 class centres were left out" in capsys.readouterr().out
    assert read_json(tmp_path / "classes.json", "classes")["class_names"] == ["Ann", "Bo"]

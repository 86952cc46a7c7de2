"""State dicts of InsightFace's nets: rebuilt in Keras, equal to the net that the names describe."""

import numpy as np
import pytest

import import_model
from facelib.errors import FaceError
from facelib.runtimes.keras_h5 import load_model
from facelib.sidecar import read_sidecar
from iresnet import iresnet
from tests.helpers.torch_writer import save_zip, tensors

SIZE = (48, 32)
NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def iresnet_of_ours():
    """An iresnet18 of ours whose statistics and slopes are none of 0 and 1."""
    rng = np.random.default_rng(0)
    model = iresnet(18, embedding_size=16, image_size=SIZE)
    for layer in model.layers:
        for v in layer.variables:
            low, high = {"beta": (-0.2, 0.2), "moving_mean": (-0.2, 0.2), "alpha": (0, 0.9)}.get(v.name, (0.5, 1.5))
            if v.name != "kernel":
                v.assign(rng.uniform(low, high, v.shape))
    return model


def state_of(model):
    """The state dict of InsightFace for an iresnet of ours; arcface_torch/backbones/iresnet.py has the names."""
    names = {"stem_conv": "conv1", "stem_bn": "bn1", "stem_act": "prelu", "head_bn": "bn2", "embedding_bn": "features"}
    parts = {"act": "prelu", "short": "downsample.0", "short_bn": "downsample.1"}
    state = {}
    for layer in model.layers:
        group, _, part = layer.name.partition("_block")
        if group.startswith("group"):
            block, _, part = part.partition("_")
            name = f"layer{group[5:]}.{int(block) - 1}.{parts.get(part, part)}"
        else:
            name = names.get(layer.name, "fc")
        for v in layer.variables:
            value = v.numpy()
            if v.name == "kernel" and name == "fc":  # InsightFace flattens channel by height by width
                state["fc.weight"] = value.transpose(3, 2, 0, 1).reshape(len(value[0, 0, 0]), -1)
            elif v.name == "bias":
                state["fc.bias"] = value
            elif v.name == "kernel":
                state[f"{name}.weight"] = value.transpose(3, 2, 0, 1)
            elif v.name == "alpha":
                state[f"{name}.weight"] = value.reshape(-1)
            else:
                state[f"{name}.{next(key for key, ours in NORM.items() if ours == v.name)}"] = value
    return state


def mbf_state(**changes):
    """The names and shapes of arcface_torch/backbones/mobilefacenet.py, blocks (1, 4, 6, 2), scale 2."""
    rng, state = np.random.default_rng(1), {}

    def norm(name, channels):
        for part in ("weight", "running_var"):
            state[f"{name}.{part}"] = rng.uniform(0.5, 1.5, channels)
        for part in ("bias", "running_mean"):
            state[f"{name}.{part}"] = rng.normal(0, 0.2, channels)
        state[f"{name}.num_batches_tracked"] = np.array(5)

    def block(name, inner, out, kernel=1, linear=False):
        shape = (out, inner, kernel, kernel)
        state[f"{name}.layers.0.weight"] = rng.normal(0, np.prod(shape[1:]) ** -0.5, shape)
        norm(f"{name}.layers.1", out)
        if not linear:
            state[f"{name}.layers.2.weight"] = rng.uniform(0, 0.9, out)

    def bottleneck(name, inner, middle, out):
        block(f"{name}.layers.0", inner, middle)
        block(f"{name}.layers.1", 1, middle, 3)
        block(f"{name}.layers.2", middle, out, linear=True)

    block("layers.0", 3, 128, 3)
    block("layers.1", 2, 128, 3)
    for place, (inner, middle, out, repeats) in enumerate(
        [(128, 128, 128, 0), (128, 128, 128, 4), (128, 256, 256, 0), (256, 256, 256, 6), (256, 512, 256, 0),
         (256, 256, 256, 2)], start=2):  # fmt: skip
        for name in [f"layers.{place}.layers.{k}" for k in range(repeats)] or [f"layers.{place}"]:
            bottleneck(name, inner, middle, out)
    block("conv_sep", 256, 512)
    block("features.layers.0", 1, 512, 7, linear=True)
    state["features.layers.2.weight"] = rng.normal(0, 0.05, (32, 512))
    norm("features.layers.3", 32)
    return {name: np.asarray(value, np.float32) for name, value in {**state, **changes}.items()}


@pytest.mark.slow
def test_an_iresnet_of_insightface_becomes_ours(tmp_path):
    ours = iresnet_of_ours()
    state = {"epoch": 3, "state_dict_backbone": {f"module.{n}": v for n, v in tensors(state_of(ours)).items()}}
    path = save_zip(tmp_path / "checkpoint_gpu_0.pt", state)

    assert import_model.main([str(path), str(tmp_path / "net.h5"), "--crop", "48,32"]) == 0

    faces = np.random.default_rng(2).integers(0, 256, (3, *SIZE, 3)).astype(np.float32)
    expected = ours(faces, training=False).numpy()
    received = load_model(tmp_path / "net.h5")(faces, training=False).numpy()
    np.testing.assert_allclose(received, expected, atol=1e-4 * np.abs(expected).max())
    assert read_sidecar(tmp_path / "net.h5").rest["imported"]["backbone"] == "iresnet18"


def test_an_mbf_of_insightface_becomes_ours(tmp_path, capsys):
    path = save_zip(tmp_path / "mbf.pt", tensors(mbf_state()))

    assert import_model.main([str(path), str(tmp_path / "net.h5")]) == 0  # it runs both and compares

    out = capsys.readouterr().out
    assert "mbf: 50 layers" in out and "outputs agree within" in out and 'backbone = "mbf"' in out
    assert read_sidecar(tmp_path / "net.h5").io.embedding_size == 32


@pytest.mark.parametrize(("state", "match"), [
    ({"0.weight": np.ones((4, 3, 3, 3))}, r"begins with '0\.weight'.*ONNX"),
    (mbf_state(extra=np.ones(3)), "it also has 'extra'"),
    ({name: value for name, value in mbf_state().items() if name != "conv_sep.layers.1.bias"},
     r"no 'conv_sep\.layers\.1\.bias'"),
    (mbf_state(**{"conv_sep.layers.0.weight": np.ones((512, 100, 1, 1))}), "does not have 256 input channels"),
    ({"layer1.0.bn1.weight": np.ones(64)}, r"groups have \(1, 0, 0, 0\) blocks"),
    (mbf_state(**{"layers.1.layers.0.layers.0.layers.0.weight": np.ones((1, 1, 1, 1))}), "large mbf"),
], ids=["other", "more", "less", "channels", "depth", "large"])  # fmt: skip
def test_another_net_is_one_line_with_the_road(tmp_path, state, match):
    path = save_zip(tmp_path / "net.pt", tensors({name: np.asarray(v, np.float32) for name, v in state.items()}))

    with pytest.raises(FaceError, match=match) as refusal:
        import_model.main([str(path), str(tmp_path / "net.h5")])
    assert "\n" not in str(refusal.value) and not (tmp_path / "net.h5").exists()

"""The worker that runs esp-ppq in .venv-esp. Not a script for users.

python ppq_worker.py convert FOLDER     reads model.onnx, pixels.npy (float32 [N, 3, H, W]) and settings.json; writes
                                        model.espdl and report.json

facelib/runtimes/worker_loop.py calls `load`. The model runs in esp-ppq's simulator, takes float32 [1, 3, H, W] and
returns the embedding, float32 [1, D].
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# 16 bits are simulated with double precision, as the chip computes them.
PLATFORMS = {
    "esp32s3": {8: "ESPDL_S3_INT8", 16: "ESPDL_S3_H_PRE_INT16"},
    "esp32p4": {8: "ESPDL_INT8", 16: "ESPDL_H_PRE_INT16"},
}
# Of esp-ppq. "kl", "percentile" and "mse" gave nearly the same cosines.
CALIBRATION = "minmax"
MEASURED = 16  # faces on which cosines are measured
HEADER = 16  # bytes before the FlatBuffers table of an .espdl
STEPS = (1, 2, 3, 5, 8, 12, 18, 27, 40)  # numbers of layers with 16 bits that are tried


def convert(folder: Path) -> None:
    """Quantises model.onnx as settings.json says."""
    import esp_ppq.lib
    import torch

    torch.set_num_threads(1)
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    pixels = np.load(folder / "pixels.npy")
    model = Quantised(folder / "model.onnx", settings["chip"], settings["bits"], pixels, settings["exponents"])
    layers: list[dict] = []
    if settings["int16"]:
        model.quantise(settings["int16"])
    elif settings["int16"] is None and settings["bits"] == 8 and model.cosine() < settings["min_cosine"]:
        layers = model.find_worst_layers()
        for count in (*STEPS, len(layers)):
            model.quantise([layer["name"] for layer in layers[:count]])
            if model.cosine() >= settings["min_cosine"]:
                break
    esp_ppq.lib.Exporter(platform=model.platform(settings["bits"])).export(
        file_path=str(folder / "model.espdl"), graph=model.graph, export_config=False,
        metadata_props={"chip": settings["chip"], "bits": str(settings["bits"]), "int16": " ".join(model.int16)},
    )  # fmt: skip
    report = {"int16": model.int16, "layers": layers, "exponents": model.exponents(), "trained": model.trained}
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")


class Quantised:
    """A quantised graph of esp-ppq.

    Args:
        onnx: the float model.
        chip: a key of `PLATFORMS`.
        bits: 8 or 16.
        pixels: float32 [N, 3, H, W], to measure the ranges on.
        exponents: {tensor: exponent} that replace what was measured; None for none.

    Attributes:
        graph: of esp-ppq.
        int16: names of the layers with 16 bits where `bits` is 8.
        trained: number of exponents that were replaced.
    """

    def __init__(self, onnx: Path, chip: str, bits: int, pixels: np.ndarray, exponents: dict[str, int] | None):
        import torch

        self.onnx, self.chip, self.bits, self.given = onnx, chip, bits, exponents or {}
        self.data = [torch.from_numpy(face[None].copy()) for face in pixels]
        self.int16: list[str] = []
        self.graph: Any = None
        self.quantise([])

    def platform(self, bits: int):
        from esp_ppq.core import TargetPlatform

        return getattr(TargetPlatform, PLATFORMS[self.chip][bits])

    def quantise(self, int16: list[str]) -> None:
        """Quantises anew, with 16 bits in the named layers."""
        from esp_ppq.api import QuantizationSettingFactory
        from esp_ppq.api.interface import quantize_onnx_model
        from esp_ppq.executor import TorchExecutor

        setting = QuantizationSettingFactory.espdl_setting()
        setting.quantize_parameter_setting.calib_algorithm = "minmax"
        setting.quantize_activation_setting.calib_algorithm = CALIBRATION
        if int16:
            unknown = sorted(set(int16) - {op.name for op in self.graph.operations.values()})
            if unknown:
                raise SystemExit(f"the model has no layer {unknown[0]}")
            for name in int16:
                for each in self._with_activation(name):
                    setting.dispatching_table.append(each, self.platform(16))
        self.graph = quantize_onnx_model(
            onnx_import_file=str(self.onnx), calib_dataloader=self.data, calib_steps=len(self.data), input_shape=None,
            platform=self.platform(self.bits), inputs=[self.data[0]], setting=setting, collate_fn=lambda x: x,
            device="cpu",
        )  # fmt: skip
        self.int16 = list(int16)
        self.trained = self.set_exponents(self._given_exponent)
        self.executor = TorchExecutor(graph=self.graph, device="cpu")

    def _given_exponent(self, op, config, variable) -> list[int] | None:
        """What a training set; 16 bits have 8 more after the point."""
        exponent = self.given.get(variable.name)
        return None if exponent is None else [exponent - (config.num_of_bits - 8)]

    def _with_activation(self, name: str) -> list[str]:
        """A layer and the activation after it, which must have the same bits."""
        after = self.graph.get_downstream_operations(self.graph.operations[name])
        return [name, *(op.name for op in after if len(after) == 1 and op.type in ("Relu", "Clip", "PRelu"))]

    def configs(self):
        """(operation, configuration, variable) of each tensor that has a scale of its own."""
        from esp_ppq.core import QuantizationStates
        from esp_ppq.IR.quantize import QuantableOperation

        for op in self.graph.operations.values():
            if isinstance(op, QuantableOperation):
                for config, variable in op.config_with_variable:
                    if config.state == QuantizationStates.ACTIVATED and config.dominated_by == config:
                        yield op, config, variable

    def set_exponents(self, exponent_of) -> int:
        """Replaces scales by 2 ** exponent, and those of the biases that follow from them. Returns how many.

        Args:
            exponent_of: (operation, configuration, variable) -> list of int, one or one for each channel; None to keep.
        """
        import torch

        count = 0
        for op, config, variable in self.configs():
            if (exponents := exponent_of(op, config, variable)) is not None:
                scale = torch.tensor(2.0) ** torch.tensor(exponents, dtype=torch.float32)
                config.scale = scale.reshape(config.scale.shape)
                count += 1
        for op in self.graph.operations.values():
            if op.type in ("Conv", "Gemm") and op.num_of_input == 3:
                source, weights, bias = op.config.input_quantization_config
                bias.scale = weights.scale * source.scale
        return count

    def exponents(self) -> dict[str, int]:
        """{tensor: exponent} of the activations."""
        return {
            variable.name: int(np.log2(config.scale.item()))
            for _, config, variable in self.configs() if not variable.is_parameter
        }  # fmt: skip

    def run(self, pixels) -> np.ndarray:
        """A tensor [1, 3, H, W] -> float32 [1, D]."""
        import torch

        with torch.no_grad():
            return self.executor.forward([pixels])[0].numpy()

    def embed(self) -> np.ndarray:
        """Embeddings of the measured faces, float32 [N, D]."""
        return np.concatenate([self.run(face) for face in self.data[:MEASURED]])

    def float_embeddings(self) -> np.ndarray:
        """The same of the float model."""
        from esp_ppq.IR.quantize import QuantableOperation

        if not hasattr(self, "_float"):
            quantised = [op for op in self.graph.operations.values() if isinstance(op, QuantableOperation)]
            for op in quantised:
                op.dequantize()
            self._float = self.embed()
            for op in quantised:
                op.restore_quantize_state()
        return self._float

    def cosine(self) -> float:
        """Mean cosine to the float model."""
        return cosine(self.embed(), self.float_embeddings())

    def find_worst_layers(self) -> list[dict]:
        """{"name", "error"} of each layer with weights, the largest error first: each is quantised alone."""
        from esp_ppq.IR.quantize import QuantableOperation

        right = self.float_embeddings()
        quantised = [op for op in self.graph.operations.values() if isinstance(op, QuantableOperation)]
        for op in quantised:
            op.dequantize()
        layers = []
        for op in quantised:
            if op.is_computing_op:
                parts = [self.graph.operations[name] for name in self._with_activation(op.name)]
                for part in parts:
                    part.restore_quantize_state()
                layers.append({"name": op.name, "error": 1 - cosine(self.embed(), right)})
                for part in parts:
                    part.dequantize()
        for op in quantised:
            op.restore_quantize_state()
        return sorted(layers, key=lambda layer: -layer["error"])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Mean cosine between rows."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.mean(np.sum(a * b, axis=1) / np.maximum(norms, 1e-30)))


def load(espdl: str, onnx: str):
    """A model as (what the first line says, the model as a function of its input).

    Args:
        espdl: path of the quantised model.
        onnx: path of the float model that it was made from.
    """
    import torch

    torch.set_num_threads(1)
    held = read_espdl(Path(espdl))
    shape = input_shape(onnx)
    blank = np.zeros((8, *shape[1:]), np.float32)  # its ranges are replaced
    model = Quantised(Path(onnx), held.chip, held.bits, blank, None)
    if held.int16:
        model.quantise(held.int16)
    model.set_exponents(held.exponent_of)
    check_weights(model, held.weights)

    def run(values):
        return model.run(torch.from_numpy(values.copy()))

    outputs = list(run(np.zeros(shape, np.float32)).shape)
    return {"shape": shape, "dtype": "float32", "outputs": outputs, "chip": held.chip, "int16": held.int16}, run


@dataclass(frozen=True)
class Held:
    """What an .espdl holds.

    Attributes:
        chip: a key of `PLATFORMS`.
        bits: 8 or 16.
        int16: names of the layers with 16 bits where `bits` is 8.
        exponents: {tensor: exponents}, one or one for each channel.
        nodes: {operation: (inputs, outputs)}, names of tensors.
        weights: {tensor: integers, flat, in the order of the chip}.
    """

    chip: str
    bits: int
    int16: list[str]
    exponents: dict[str, list[int]]
    nodes: dict[str, tuple[list[str], list[str]]]
    weights: dict[str, np.ndarray]

    def exponent_of(self, op, config, variable) -> list[int]:
        """The exponents of a tensor of esp-ppq's graph. Between 16 and 8 bits the file has a tensor more."""
        inputs, outputs = self.nodes.get(op.name, ([], []))
        is_output = any(config is each for each in op.config.output_quantization_config)
        ours, theirs = (op.outputs, outputs) if is_output else (op.inputs, inputs)
        place = next(i for i, each in enumerate(ours) if each is variable)
        return self.exponents[theirs[place] if theirs else variable.name]


def read_espdl(path: Path) -> Held:
    """Reads an .espdl: 16 bytes of header, then a FlatBuffers table."""
    from esp_ppq.parser.espdl import helper

    model = helper.Model.Model.GetRootAs(path.read_bytes()[HEADER:], 0)
    about = {}
    for i in range(model.MetadataPropsLength()):
        about[model.MetadataProps(i).Key().decode()] = model.MetadataProps(i).Value().decode()
    graph = model.Graph()
    infos = [graph.ValueInfo(i) for i in range(graph.ValueInfoLength())]
    infos += [graph.Input(i) for i in range(graph.InputLength())]
    tensors = [graph.Initializer(i) for i in range(graph.InitializerLength())]
    exponents = {
        each.Name().decode(): each.ExponentsAsNumpy().tolist() for each in (*infos, *tensors) if each.ExponentsLength()
    }
    nodes, weights = {}, {}
    for node in (graph.Node(i) for i in range(graph.NodeLength())):
        inputs = [node.Input(i).decode() for i in range(node.InputLength())]
        nodes[node.Name().decode()] = inputs, [node.Output(i).decode() for i in range(node.OutputLength())]
    for each in tensors:
        if each.DimsLength() > 1 and not each.RawDataIsNone():
            parts = [each.RawData(i).BytesAsNumpy().tobytes() for i in range(each.RawDataLength())]
            values = np.frombuffer(b"".join(parts), helper.tensor_dtype_to_np_dtype(each.DataType()))
            weights[each.Name().decode()] = values[: int(np.prod(each.DimsAsNumpy()))]
    return Held(about["chip"], int(about["bits"]), about["int16"].split(), exponents, nodes, weights)


def check_weights(model: Quantised, weights: dict[str, np.ndarray]) -> None:
    """Refuses an .espdl whose integers are not those that are simulated. The chip has them in another order."""
    from esp_ppq.quantization.qfunction.linear import PPQLinearQuant_toInt

    checked = 0
    for op, config, variable in model.configs():
        if op.type in ("Conv", "Gemm") and variable is op.inputs[1]:
            right = np.sort(PPQLinearQuant_toInt(variable.value, config).numpy(), axis=None)
            if not np.array_equal(right, np.sort(weights.get(variable.name, right[:0]))):
                raise ValueError(f"the weights of {op.name} differ from those of the ONNX model")
            checked += 1
    if not checked:
        raise ValueError("the model has no convolution")


def input_shape(onnx: str) -> list[int]:
    """[1, 3, H, W] of an ONNX model."""
    import onnx as library

    (source,) = library.load(onnx).graph.input
    return [size.dim_value for size in source.type.tensor_type.shape.dim]


if __name__ == "__main__":
    {"convert": convert}[sys.argv[1]](Path(sys.argv[2]))

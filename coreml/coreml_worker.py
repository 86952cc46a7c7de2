"""The worker that runs coremltools in .venv-coreml. Not a script for users.

python coreml_worker.py convert FOLDER   reads net.json and tensors.npz (facelib/export/coreml/convert.py writes them);
                                         writes model.mlpackage.zip and interface.json

facelib/runtimes/worker_loop.py calls `load`. The model runs the operations of a .mlpackage in NumPy. The model takes
uint8 [1, H, W, 3], with the colours in the model's order, and returns the embedding, float32 [D]. Core ML itself runs
on Apple's systems only.
"""

import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

PACKAGE, DATA = "model.mlpackage", Path("Data", "com.apple.CoreML")
INPUT, OUTPUT = "image", "embedding"


def convert(folder: str) -> None:
    """Writes the net as an ML program in float16; the mode int8 stores the weights in 8 bits, a scale a channel."""
    import coremltools as ct

    os.chdir(folder)
    net = json.loads(Path("net.json").read_text(encoding="utf-8"))
    shape = (1, 3, *net["size"])
    layout = ct.colorlayout.RGB if net["colour"] == "rgb" else ct.colorlayout.BGR
    model = ct.convert(
        program_of(net, dict(np.load("tensors.npz")), shape), convert_to="mlprogram", skip_model_load=True,
        inputs=[ct.ImageType(name=INPUT, shape=shape, color_layout=layout)], compute_precision=ct.precision.FLOAT16,
        minimum_deployment_target=ct.target.iOS15,
    )  # fmt: skip
    if net["mode"] == "int8":
        weights = ct.optimize.coreml.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8")
        config = ct.optimize.coreml.OptimizationConfig(global_config=weights)
        with np.errstate(invalid="ignore"):  # a channel of zeros has the scale 0
            model = ct.optimize.coreml.linear_quantize_weights(model, config)
    model.save(PACKAGE)
    Path("interface.json").write_text(json.dumps(interface_of(model.get_spec())), encoding="utf-8")
    with zipfile.ZipFile(f"{PACKAGE}.zip", "w", zipfile.ZIP_DEFLATED) as bundle:
        for path in sorted(Path(PACKAGE).rglob("*")):
            bundle.write(path)


def program_of(net: dict, tensors: dict, shape: tuple):
    """The nodes of an ONNX graph as a program of MIL, the language of Core ML; both have the channels first."""
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb

    rules = rules_of(mb)

    @mb.program(input_specs=[mb.TensorSpec(shape=shape)], opset_version=ct.target.iOS15)
    def program(image):
        values = {**tensors, net["input"]: image}
        for node in net["nodes"]:
            (result,) = node["outputs"]
            name = OUTPUT if result == net["output"] else result
            if node["kind"] not in rules:
                raise SystemExit(f"there is no rule for the ONNX operation {node['kind']}")
            values[result] = rules[node["kind"]](node["attributes"], name, *(values[each] for each in node["inputs"]))
        return values[net["output"]]

    return program


def rules_of(mb) -> dict[str, Callable]:
    """{operation of ONNX: function of (attributes, name, operands)}."""

    def conv(attributes, name, x, weight, bias=None):
        top, left, bottom, right = attributes["pads"]
        return mb.conv(
            x=x, weight=weight, bias=bias, pad_type="custom", pad=[top, bottom, left, right], name=name,
            strides=attributes["strides"], groups=attributes["group"], dilations=attributes["dilations"],
        )  # fmt: skip

    def clip(_, name, x, low, high):
        if (low, high) == (0, 6):
            return mb.relu6(x=x, name=name)
        return mb.clip(x=x, alpha=float(low), beta=float(high), name=name)

    return {
        "Conv": conv,
        "Clip": clip,
        "Relu": lambda _, name, x: mb.relu(x=x, name=name),
        "PRelu": lambda _, name, x, slope: mb.prelu(x=x, alpha=slope.reshape(-1), name=name),
        "Sigmoid": lambda _, name, x: mb.sigmoid(x=x, name=name),
        "Add": lambda _, name, x, y: mb.add(x=x, y=y, name=name),
        "Sub": lambda _, name, x, y: mb.sub(x=x, y=y, name=name),
        "Mul": lambda _, name, x, y: mb.mul(x=x, y=y, name=name),
        "Div": lambda _, name, x, y: mb.real_div(x=x, y=y, name=name),
        "MatMul": lambda _, name, x, y: mb.matmul(x=x, y=y, name=name),
        "GlobalAveragePool": lambda _, name, x: mb.reduce_mean(x=x, axes=[2, 3], keep_dims=True, name=name),
        "Transpose": lambda attributes, name, x: mb.transpose(x=x, perm=attributes["perm"], name=name),
        "Flatten": lambda _, name, x: mb.reshape(x=x, shape=(1, -1), name=name),
        "Identity": lambda _, name, x: mb.identity(x=x, name=name),
    }


def interface_of(spec) -> dict:
    """What a program of an app sees of the model."""
    (image,), (output,) = spec.description.input, spec.description.output
    picture, array = image.type.imageType, output.type.multiArrayType
    return {
        "input": image.name,
        "input_type": image.type.WhichOneof("Type"),
        "size": [picture.height, picture.width],
        "colours": type(picture).ColorSpace.Name(picture.colorSpace),
        "output": output.name,
        "output_type": type(array).ArrayDataType.Name(array.dataType),
        "output_shape": list(array.shape),
        "specification": spec.specificationVersion,
    }


# --------------------------------------------------------------------------------------------------------- in NumPy


def load(path: str):
    """A .mlpackage.zip as (what the first line says, the model as a function of its input)."""
    from coremltools.converters.mil.frontend.milproto.load import load as read_program
    from coremltools.proto import Model_pb2

    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(path) as bundle:
            bundle.extractall(folder)
        data = Path(folder, PACKAGE, DATA)
        spec = Model_pb2.Model.FromString((data / "model.mlmodel").read_bytes())
        program = read_program(
            spec, specification_version=spec.specificationVersion, file_weights_dir=str(data / "weights")
        )
    interface, operations = interface_of(spec), operations_of(program.functions["main"])

    def run(pixels: np.ndarray) -> np.ndarray:
        values = {interface["input"]: pixels.transpose(0, 3, 1, 2).astype(np.float32)}
        for kind, names, constants, result in operations:
            operands = {key: values[name] for key, name in names.items()}
            rounded = NUMPY[kind](**operands, **constants).astype(np.float16)  # as the program says
            values[result] = rounded.astype(np.float32)
        return values[interface["output"]].reshape(-1)

    shape = [1, *interface["size"], 3]
    outputs = list(run(np.zeros(shape, np.uint8)).shape)
    return {"shape": shape, "dtype": "uint8", "outputs": outputs, "interface": interface}, run


def operations_of(function) -> list[tuple[str, dict, dict, str]]:
    """(operation, {operand: name of a result}, {operand: constant}, name of the result), in order."""
    known: dict[str, np.ndarray] = {}
    operations = []
    for op in function.operations:
        (result,) = op.outputs
        names, constants = {}, {}
        for key, var in op.inputs.items():
            value = known.get(var.name, var.val) if var is not None else None
            if value is not None:
                constants[key] = to_float32(value)
            elif var is not None:
                names[key] = var.name
        if op.op_type == "constexpr_affine_dequantize":
            known[result.name] = dequantise(**constants)
        elif op.op_type != "const":
            if op.op_type not in NUMPY:
                raise ValueError(f"NumPy has no rule for the operation {op.op_type}")
            operations.append((op.op_type, names, constants, result.name))
    return operations


def to_float32(value):
    return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype == np.float16 else value


def dequantise(quantized_data, zero_point, scale, axis) -> np.ndarray:
    along = [-1 if k == axis else 1 for k in range(quantized_data.ndim)]
    scale, zero_point = (np.asarray(each, np.float32) for each in (scale, zero_point))
    if scale.ndim:
        scale = scale.reshape(along)
    if zero_point.ndim:
        zero_point = zero_point.reshape(along)
    return ((quantized_data.astype(np.float32) - zero_point) * scale).astype(np.float16).astype(np.float32)


def convolve(x, weight, strides, pad, groups, bias=None, **_) -> np.ndarray:
    """A convolution of one image, [1, C, H, W], without dilation: a sum over the positions of the kernel."""
    outputs, per_group, height, width = weight.shape
    x = np.pad(x[0], ((0, 0), pad[:2], pad[2:])) if any(pad) else x[0]
    rows, columns = (x.shape[1] - height) // strides[0] + 1, (x.shape[2] - width) // strides[1] + 1
    sums = np.zeros((outputs, rows, columns), np.float32)
    for i, j in np.ndindex(height, width):
        part = x[:, i : i + rows * strides[0] : strides[0], j : j + columns * strides[1] : strides[1]]
        part, kernel = part[:, :rows, :columns], weight[:, :, i, j]
        if per_group == 1 and outputs == groups:
            sums += part * kernel[:, :, None]
        else:
            flat = part.reshape(groups, per_group, rows * columns)
            sums += (kernel.reshape(groups, -1, per_group) @ flat).reshape(sums.shape)
    return (sums if bias is None else sums + bias[:, None, None])[None]


NUMPY: dict[str, Callable] = {
    "conv": convolve,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "clip": lambda x, alpha, beta: np.clip(x, alpha, beta),
    "prelu": lambda x, alpha: np.where(x > 0, x, x * alpha[:, None, None]),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "real_div": lambda x, y: x / y,
    "matmul": lambda x, y, **_: x @ y,
    "linear": lambda x, weight, bias=0: x @ weight.T + bias,
    "reduce_mean": lambda x, axes, keep_dims: x.mean(tuple(axes), keepdims=bool(keep_dims)),
    "transpose": lambda x, perm: x.transpose(perm),
    "reshape": lambda x, shape: x.reshape(shape),
    "identity": lambda x: x,
    "cast": lambda x, dtype: x,
}

if __name__ == "__main__":
    {"convert": convert}[sys.argv[1]](*sys.argv[2:])

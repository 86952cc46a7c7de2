"""What runs an artefact, runtime and kernels, as reports and the list of targets name it. Each name stands here once.

Figures hold for the executor named: kernels differ among themselves (docs/targets.md).
"""

KERAS = "Keras, TensorFlow"  # on a CPU or a GPU
TENSORFLOW = "TensorFlow"
XNNPACK = "LiteRT, XNNPACK"
LITERT_REFERENCE = "LiteRT, reference kernels"  # plain C++, as TFLite Micro has them
TFLITE_MICRO = "TFLite Micro, reference kernels"
ONNX_RUNTIME = "ONNX Runtime, CPU"
NNCASE = "nncase 1.9, simulator"
NCNN = "ncnn, CPU"  # in float32, whatever type the weights have
MSAME = "Ascend, msame"
RKNN = "RKNN-Toolkit2, simulator"
MIL_IN_NUMPY = "Core ML operations in NumPy"  # Core ML itself runs on Apple's systems only
ESP_PPQ = "esp-ppq, simulator"


def on_emulated(executor: str, cpu: str) -> str:
    """The name of an executor on an ARM CPU that QEMU emulates."""
    return f"{executor} on {cpu} in QEMU"

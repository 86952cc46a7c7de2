"""Compare int8 models of TensorFlow's converter and ai-edge-quantizer: cosine to the float model, time on one thread.

pip install ai-edge-quantizer
python benchmarks/bench_quantizers.py runs/demo/export/optimized.pb --calibration DATA --faces lfw.bin

Both converters measure the ranges on the crops of --calibration. The cosines are measured on other crops, those of
--faces. The models run alternately, each 60 times after 5 warm-ups, and times are medians. The script prints one JSON
line for each model; `times_faster` is relative to the float model of the same run. Because of the results in
docs/int8.md, pb_2_tflite.py uses TensorFlow's converter.
"""

import argparse
import collections
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from facelib.cli import run_cli
from facelib.data.readers.calibration_crops import load_crops
from facelib.errors import FaceError
from facelib.export.tflite.convert import TfliteOptions, graph_to_tflite
from facelib.model_input import Io
from facelib.runtimes.frozen_graph import load_graph
from facelib.runtimes.tflite import Lite
from facelib.tensorflow_env import quiet_tensorflow
from facelib.unit_vectors import row_cosines

SHAPE = (1, 112, 112, 3)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", type=Path, metavar="PB", help="optimised graph with raw pixels as input")
    parser.add_argument(
        "--calibration", type=Path, required=True, metavar="DATA", help="crops on which the ranges are measured"
    )
    parser.add_argument(
        "--faces", type=Path, required=True, metavar="DATA", help="other crops, on which the cosines are measured"
    )
    parser.add_argument("--runs", type=int, default=60, help="runs of each model (default: %(default)s)")
    args = parser.parse_args(argv)
    crops, _ = load_crops(args.calibration, 300, 0)
    faces, _ = load_crops(args.faces, 300, 1)
    quiet_tensorflow()
    graph = load_graph(args.graph)
    full = graph_to_tflite(graph, Io(), SHAPE, TfliteOptions("float"))
    models = {
        "float": full,
        "tensorflow": graph_to_tflite(graph, Io(), SHAPE, TfliteOptions("int8", crops)),
        "ai-edge-quantizer": quantize(graph, crops),
    }
    lites = {name: Lite(model) for name, model in models.items()}
    vectors = {name: np.concatenate([lite(face[None]) for face in faces]) for name, lite in lites.items()}
    times = {name: [] for name in lites}
    for _ in range(args.runs + 5):
        for name, lite in lites.items():
            started = time.perf_counter()
            lite(faces[:1].astype(lite.dtype))
            times[name].append(1000 * (time.perf_counter() - started))
    medians = {name: float(np.median(values[5:])) for name, values in times.items()}
    for name, lite in lites.items():
        cosines = row_cosines(vectors[name], vectors["float"])
        operations = collections.Counter(op["op_name"] for op in lite._interpreter._get_ops_details())
        result = {
            "name": "quantizer",
            "quantizer": name,
            "mean_cosine": round(float(cosines.mean()), 5),
            "worst_cosine": round(float(cosines.min()), 5),
            "ms": round(medians[name], 3),
            "times_faster": round(medians["float"] / medians[name], 3),
            "requantisations": operations["QUANTIZE"],
            "input": f"{lite.dtype} of scale {lite.scale:.4g}",
        }
        print(json.dumps(result))
    return 0


def quantize(graph, crops: np.ndarray) -> bytes:
    """The graph as int8 by ai-edge-quantizer's static recipe.

    Args:
        graph: GraphDef with input `input_1` and output `embeddings`.
        crops: uint8 [N, 112, 112, 3], RGB, to measure ranges on.
    """
    try:
        from ai_edge_quantizer import quantizer, recipe
    except ImportError as error:
        raise FaceError("This benchmark needs one more package: pip install ai-edge-quantizer.") from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "float.tflite")
        path.write_bytes(with_signature(graph))
        quantizing = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
        data = {"serving_default": [{"input_1": crop[None].astype(np.float32)} for crop in crops]}
        return bytes(quantizing.quantize(quantizing.calibrate(data)).quantized_model)


def with_signature(graph) -> bytes:
    """The float .tflite of `graph` with a signature, which ai-edge-quantizer needs for calibration."""
    import tensorflow as tf

    class Net(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec(SHAPE, tf.float32, name="input_1")])
        def embed(self, input_1):
            (output,) = tf.graph_util.import_graph_def(
                graph, input_map={"input_1:0": input_1}, return_elements=["embeddings:0"], name=""
            )
            return {"embeddings": tf.identity(output)}

    net = Net()
    return tf.lite.TFLiteConverter.from_concrete_functions([net.embed.get_concrete_function()], net).convert()


if __name__ == "__main__":
    run_cli(main)

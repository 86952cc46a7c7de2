"""A stand-in for msame, Ascend's tool that runs an .om over files, for tests. TensorFlow computes the graph in the .om.

It behaves as the source of msame says (Ascend/tools, msame/src: main.cpp, sample_process.cpp, model_process.cpp): names
and order of files, a folder named by the time, .bin and .txt with six digits, the lines of the log, exit code 0 after
most errors, and no stop after a failed execution. It does not have the chip's rounding inside the net (only weights and
the output are rounded to float16) nor its speed. Times in the log are those of the CPU.
"""

import getopt
import json
import os
import re
import sys
import time
from pathlib import Path

import numpy as np

MAGIC = b"STAND-IN OM, for no device "


def info(text):
    print(f"[INFO] {text}")


def error(text):
    print(f"[ERROR] {text}")


class Model:
    """An .om that the stand-in atc wrote."""

    def __init__(self, path):
        head, _, graph = path.read_bytes().partition(b"\n")
        if not head.startswith(MAGIC):
            error("load model from file failed, model file is " + str(path))
            sys.exit(1)
        about = json.loads(head[len(MAGIC) :])
        self.shape, self.aipp = about["shape"], about["aipp"]
        self.dtype = {"FP16": np.float16, "FP32": np.float32}[about["output_type"]]
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        import tensorflow as tf

        proto = tf.compat.v1.GraphDef.FromString(graph)
        if about["is_half"]:
            self._round_weights(tf, proto)
        with tf.Graph().as_default() as inside:
            tf.import_graph_def(proto, name="")
        source, target = (inside.get_tensor_by_name(f"{about[key]}:0") for key in ("input", "output"))
        self._call = tf.compat.v1.Session(graph=inside).make_callable(target, [source])

    @staticmethod
    def _round_weights(tf, proto):
        for node in proto.node:
            if node.op == "Const" and node.attr["dtype"].type == tf.float32.as_datatype_enum:
                value = tf.make_ndarray(node.attr["value"].tensor).astype(np.float16).astype(np.float32)
                node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))

    @property
    def num_bytes(self):
        return int(np.prod(self.shape)) * (1 if self.aipp else 4)

    def __call__(self, data):
        pixels = np.frombuffer(data, np.uint8 if self.aipp else np.float32).reshape(self.shape)
        return self._call(self._prepare(pixels) if self.aipp else pixels).astype(self.dtype)

    def _prepare(self, pixels):
        """Static AIPP of RGB888_U8: swap, then (pixel - mean - min) * factor."""
        said = dict(re.findall(r"^\s*(\w+)\s*:\s*([\w.]+)", self.aipp, re.MULTILINE))
        if said.get("rbuv_swap_switch") == "true":
            pixels = pixels[..., ::-1]
        mean, low = (np.array([float(said.get(f"{key}_chn_{c}", 0)) for c in range(3)]) for key in ("mean", "min"))
        factor = np.array([float(said.get(f"var_reci_chn_{c}", 1)) for c in range(3)])
        return ((pixels - mean - low) * factor).astype(np.float32)


def text_of(values):
    """ostream << float: at most six digits; a newline after each hundred values but the last."""
    words = []
    for i, value in enumerate(values.ravel().tolist(), 1):
        words.append(f"{value:g} " + ("\n" if i % 100 == 0 and i != values.size else ""))
    return "".join(words)


def main(argv):
    names = ["model=", "input=", "output=", "outfmt=", "loop=", "device=", "debug=", "dump=", "profiler=", "help"]
    try:
        flags = dict(getopt.gnu_getopt(argv, "", names)[0])
    except getopt.GetoptError:
        error("unknown paramenter\n")
        sys.exit(0)
    if ".om" not in flags.get("--model", ""):
        error("input model file type is not .om , please check your model type!\n")
        sys.exit(0)
    loop = int(flags.get("--loop", 1))
    if not 1 <= loop <= 100:
        error("loop must in 1 to 100\n")
        sys.exit(0)
    info("acl init success")
    info(f"open device {flags.get('--device', 0)} success")
    model = Model(Path(flags["--model"]))
    info(f"load model {flags['--model']} success")
    info("create model output success")
    source, output = flags["--input"], flags["--output"]
    if not os.path.isdir(output):
        os.mkdir(output)  # one level, as the real one
    folder = f"{output}/{time.strftime('%Y%m%d_%H%M%S')}"
    print(folder)
    os.makedirs(folder, exist_ok=True)
    is_text = flags.get("--outfmt") == "TXT"
    if ".bin" in source:
        files, loops = [source], loop
    else:
        files, loops = [f"{source}/{name}" for name in sorted(os.listdir(source)) if not name.startswith(".")], 1
    times = []
    for i, file in enumerate(files):
        info(f"start to process file:{file}")
        data = Path(file).read_bytes()
        if len(data) != model.num_bytes:
            error("execute model failed, modelId is 1")
            error("model execute failed")
            if i != 1:
                continue
            sys.exit(1)
        for _ in range(loops):
            begin = time.perf_counter()
            values = model(data)
            times.append(1000 * (time.perf_counter() - begin))
            info("model execute success")
            print(f"Inference time: {times[-1]:g}ms")
        stem = os.path.splitext(os.path.basename(file))[0]
        target = Path(folder) / f"{stem}_output_0.{'txt' if is_text else 'bin'}"
        target.write_bytes(text_of(values).encode() if is_text else values.tobytes())
        info("output data success")
        info("destroy model input success")
    form = "%s: %f ms" if ".bin" in source else "%s : %.2f ms"
    print(form % ("Inference average time", np.mean(times)))
    if len(times) > 1:
        print(form.replace(" :", ":") % ("Inference average time without first time", np.mean(times[1:])))
    info("unload model success, model Id is 1")
    info("Execute sample success")


if __name__ == "__main__":
    main(sys.argv[1:])

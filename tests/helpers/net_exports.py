"""A network with random weights, what its exports compute, and how near that is to the Keras model."""

from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime

from facelib.data.synthetic.faces import synthetic_face
from facelib.export.freeze import freeze
from facelib.export.onnx.convert import OnnxOptions, graph_to_onnx
from facelib.export.optimize import optimize
from facelib.export.tflite.convert import TfliteOptions, graph_to_tflite
from facelib.model_input import Io
from facelib.runtimes.frozen_graph import open_graph
from facelib.runtimes.tflite import Lite
from facelib.unit_vectors import row_cosines
from tests.helpers.random_weights import random_weights

NUM_TESTED, NUM_CALIBRATION = 8, 16


class NetExports:
    """The exports of one network, on synthetic faces.

    Args:
        model: a Keras embedder; it gets random weights. Its batch normalisation takes the statistics of a batch, as
            after training: without, the values of a deep network grow too much for int8.

    Attributes:
        faces: float32 [8, H, W, 3], raw pixels.
        expected: float32 [8, D], the embeddings of the Keras model.
    """

    def __init__(self, model):
        self.model = random_weights(model, spread=0.3)
        height, width = self.size = tuple(model.input_shape[1:3])
        crops = [synthetic_face(k, 3, 0)[:height, :width] for k in range(NUM_TESTED + NUM_CALIBRATION)]
        self._crops = np.stack(crops[NUM_TESTED:])
        self.faces = np.stack(crops[:NUM_TESTED]).astype("float32")
        norms = [layer for layer in model.layers if hasattr(layer, "momentum")]
        for layer in norms:
            layer.momentum = 0.0
        if norms:
            model(self._crops.astype("float32"), training=True)
        self.expected = self.model(self.faces, training=False).numpy()

    @cached_property
    def graph(self):
        """The optimised GraphDef."""
        return optimize(freeze(self.model), "input_1", "embeddings")

    def run_graph(self):
        return open_graph(self.graph, Path("x.pb"))(self.faces)

    def run_onnx(self, opset):
        model = graph_to_onnx(self.graph, "input_1", "embeddings", self.size, OnnxOptions(opset=opset))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(["embeddings"], {"input_1": self.faces})[0]

    def run_tflite(self, mode):
        options = TfliteOptions(mode, self._crops if mode == "int8" else None)
        io = Io(size=self.size, embedding_size=self.expected.shape[1])
        lite = Lite(graph_to_tflite(self.graph, io, (1, *self.size, 3), options))
        return np.concatenate([lite(face[None]) for face in self.faces])

    def cosines(self, found):
        """To `expected`, both without its mean: to a net with random weights, all faces look much the same."""
        mean = self.expected.mean(0)
        return row_cosines(found - mean, self.expected - mean)

"""The models of a kit: ONNX with channels first and last, and float TFLite, made from an optimised graph."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from facelib.export.graph_input import load_sized, with_raw_pixels, without_normalisation, without_scaling
from facelib.export.int8_graph import without_fake_quant
from facelib.export.onnx.convert import OnnxOptions, describe_tensors, graph_to_onnx
from facelib.export.optimize import optimize
from facelib.export.parity import check_parity
from facelib.export.tflite.convert import TfliteOptions, graph_to_tflite
from facelib.model_input import Io
from facelib.runtimes.frozen_graph import node_of
from facelib.runtimes.open_embedder import open_embedder
from facelib.runtimes.tflite import Lite
from facelib.self_test import make_self_test
from facelib.sidecar import parity_record, write_sidecar


def write_models(graph_file: Path, io: Io, folder: Path, faces: np.ndarray, expected: np.ndarray) -> dict[str, Io]:
    """Writes three forms of one net, each with its sidecar, and compares their embeddings with those of the graph.

    Args:
        graph_file: an optimised .pb.
        io: how it is fed.
        folder: gets model_nchw.onnx (scaled pixels), model_nhwc.onnx and model_float.tflite (raw RGB pixels).
        faces: uint8 [N, 112, 112, 3], RGB.
        expected: float [N, D], their embeddings by the graph.

    Returns:
        {file name: how it is fed}.

    Raises:
        FaceError: a form gives other embeddings, or the graph has no such form.
    """
    parent, fed = load_sized(graph_file, io)
    target = node_of(fed.output)
    graph = without_normalisation(parent, fed)
    raw, raw_io = with_raw_pixels(graph, fed)
    raw = without_fake_quant(optimize(raw, node_of(fed.input), target), target)
    scaled, scaled_io = without_scaling(raw, raw_io, graph_file)
    source = node_of(fed.input)
    first = replace(scaled_io, input=source, output=target, layout="nchw")
    last = replace(raw_io, input=source, output=target)
    contents = {
        "model_nchw.onnx": (graph_to_onnx(scaled, source, target, first.size, OnnxOptions("nchw", 1)), first),
        "model_nhwc.onnx": (graph_to_onnx(raw, source, target, last.size, OnnxOptions("nhwc", 1)), last),
        "model_float.tflite": (graph_to_tflite(raw, raw_io, (1, *fed.size, 3), TfliteOptions("float")), raw_io),
    }
    for name, (model, form) in contents.items():
        path, is_tflite = folder / name, name.endswith(".tflite")
        data = model if is_tflite else model.SerializeToString()
        path.write_bytes(data)
        kind, embedder = "tflite_float" if is_tflite else "onnx", open_embedder(path, form, 1)
        cosines = check_parity(f"'{name}' and '{graph_file}'", kind, embedder.raw, lambda _: expected, faces)
        record: dict[str, Any] = {
            "parity": parity_record(cosines),
            "tensors": Lite(path).describe_tensors() if is_tflite else describe_tensors(data),
            "self_test": make_self_test(embedder, kind),
        }
        write_sidecar(path, kind=kind, made_from=graph_file, io=form, **record)
    return {name: form for name, (_, form) in contents.items()}

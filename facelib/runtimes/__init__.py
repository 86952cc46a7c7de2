"""Runs models: one file and one `Embedder` for each runtime. `open_embedder` chooses by the file's suffix.

keras_h5 (.h5), frozen_graph (.pb), tflite (.tflite), onnx (.onnx), kmodel (.kmodel, the K210's simulator), tflm
(.tflite on TFLite Micro), ncnn (.param), rknn (.rknn, the simulator of Rockchip's NPUs), coreml (the operations of a
.mlpackage in NumPy), esp (.espdl, esp-ppq's simulator). array_worker runs models in other Python environments. The
protocol `Embedder` and the base class `RuntimeEmbedder` are in facelib/embedder.py.
"""

"""One `Embedder` for each runtime: Keras, frozen graph, TFLite, ONNX Runtime, K210 simulator."""

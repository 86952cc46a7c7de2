"""Weights of public ONNX models are copied into our Keras networks."""

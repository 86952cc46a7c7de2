"""A trained .h5 becomes frozen.pb, optimized.pb, .tflite and .onnx, with the checks of each step."""

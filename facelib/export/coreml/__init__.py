"""Core ML: an ONNX model in planes as an ML program in a .mlpackage, zipped. The scripts are in coreml/."""

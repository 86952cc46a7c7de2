"""ncnn: an ONNX model in planes as .param and .bin, converted by pnnx. The scripts are in ncnn/."""

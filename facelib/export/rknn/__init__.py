"""RKNN: an ONNX model in planes compiled for the NPUs of Rockchip. The scripts are in rknn/."""

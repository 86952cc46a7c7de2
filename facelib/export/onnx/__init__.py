"""ONNX: a graph in the layout that ONNX Runtime computes fastest. The script is pb_2_onnx.py."""

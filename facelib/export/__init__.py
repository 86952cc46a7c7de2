"""Exports a trained .h5: frozen.pb, optimized.pb, and a folder for each target: tflite/, onnx/, om/, k210/,
kit/, mcu/, ncnn/, rknn/, coreml/, esp/.

freeze, optimize (with fold_batch_norm) make the graph that all targets start from. int8_graph
rewrites it for int8. parity compares every artefact with its parent. The scripts at the top level
and in om/, k210/ and mcu/ call these modules; targets.py is the list of all targets.
"""

"""Reads public ONNX face models and copies their weights into our Keras networks; `facelib.importing` uses it.

reader.py reads the file, steps.py lists its layers, rewrites.py changes what our layers cannot express, weights.py
copies them and restores the statistics of batch normalisation.
"""

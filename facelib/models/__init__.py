"""Layers, blocks and int8 training layers of the networks, the registry of backbones, and the import of ONNX weights.

The networks themselves are at the top level of the repository: mobilefacenet.py, my_mobilenet.py, iresnet.py,
ghostfacenet.py, edgeface.py, mixfacenet.py, and backbones.py for those of keras.applications. backbones.py has
`build_backbone`.
"""

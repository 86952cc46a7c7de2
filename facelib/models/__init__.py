"""Layers and blocks of the networks, and the registry of backbones. The networks themselves are mobilefacenet.py, my_mobilenet.py, ... at the top level."""

"""The library of MobileArc: a hall of shared modules (facelib/*.py) and a room for each subject.

The table of rooms, and which room may import which, stands in CONTRIBUTING.md.
"""

__version__ = "0.2.0"

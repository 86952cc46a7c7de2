"""The library of MobileArc: a hall of shared modules (facelib/*.py) and a room for each subject.

The table of rooms, and which room may import which, stands in CONTRIBUTING.md.
"""

from facelib.script_start import guard_start

guard_start()  # before all other imports, which may take seconds

from facelib.tensorflow_env import settle_environment  # noqa: E402

__version__ = "0.2.0"

settle_environment()  # Keras reads its settings when it is imported, and never again

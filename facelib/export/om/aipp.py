"""AIPP configurations: how an Ascend model is to make its input from uint8 pixels, on the device.

A text file of `key: value` in aipp_op { }. The device computes, channel by channel after an R/B swap,
(pixel - mean_chn - min_chn) * var_reci_chn. Source: CANN manual, ATC, "AIPP configuration", its file template.
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from facelib.errors import FaceError
from facelib.files import require_file
from facelib.model_input import PIXEL_SCALINGS, Io

_SETTING = re.compile(r"^\s*(\w+)\s*:\s*\"?([\w.+-]+)\"?\s*$", re.MULTILINE)
_NEUTRAL = {"mean_chn": 0.0, "min_chn": 0.0, "var_reci_chn": 1.0}


def read_aipp(path: Path) -> dict[str, str]:
    """The settings of the only aipp_op in `path`, as text.

    Raises:
        FaceError: no such file, or no configuration of one static AIPP for 3-channel uint8 pixels.
    """
    path = require_file(path, "AIPP configuration")
    text = re.sub(r"#.*", "", path.read_text(errors="replace"))
    settings = dict(_SETTING.findall(text))
    wanted = {"aipp_mode": "static", "input_format": "RGB888_U8", "csc_switch": "false"}
    for key, value in wanted.items():
        if settings.get(key, "false" if key == "csc_switch" else None) != value:
            raise FaceError(
                f"Faces reach the device as RGB or BGR bytes: an AIPP configuration says {key}: {value}. "
                f"'{path}' says {settings.get(key, 'nothing of it')}. Begin with om/aipp.cfg."
            )
    if len(re.findall(r"aipp_op\s*\{", text)) != 1:
        raise FaceError(f"A net with one input has one aipp_op {{ }}. '{path}' has another number. See om/aipp.cfg.")
    return settings


def io_with_aipp(io: Io, path: Path) -> Io:
    """How a net that is fed as `io` says is fed behind the AIPP of `path`: uint8, raw pixels, perhaps R and B swapped.

    Raises:
        FaceError: the AIPP does not give the net what `io` says it takes.
    """
    settings = read_aipp(path)
    for key, size in (("src_image_size_h", io.size[0]), ("src_image_size_w", io.size[1])):
        if settings.get(key, str(size)) != str(size):
            raise FaceError(f"The net takes {io.size[0]}x{io.size[1]}. '{path}' says {key}: {settings[key]}. Mend it.")
    if io.layout != "nhwc":
        raise FaceError(f"AIPP here feeds NHWC nets. This one: {io.layout}.")
    means, deviations = (np.broadcast_to(value, 3) for value in PIXEL_SCALINGS[io.pixels])
    for channel in range(3):
        mean, low, factor = (float(settings.get(f"{key}_{channel}", value)) for key, value in _NEUTRAL.items())
        rgb = channel if io.colour == "rgb" else 2 - channel  # AIPP counts the channels that the net gets
        shift, scale = means[rgb], 1 / deviations[rgb]
        if abs(mean + low - shift) > 1e-3 or abs(factor / scale - 1) > 1e-3:
            why = "the net scales pixels itself" if io.pixels == "raw" else f"the net takes pixels as '{io.pixels}'"
            raise FaceError(
                f"An AIPP gives the net what it takes, and {why}: channel {channel} needs min_chn {shift:g} and "
                f"var_reci_chn {scale:.9g}. '{path}' says mean_chn {mean:g}, min_chn {low:g}, "
                f"var_reci_chn {factor:.9g}. Mend it."
            )
    is_swapped = settings.get("rbuv_swap_switch", "false") == "true"
    colour = {"rgb": "bgr", "bgr": "rgb"}[io.colour] if is_swapped else io.colour
    return replace(io, dtype="uint8", pixels="raw", colour=colour)

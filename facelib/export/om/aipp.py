"""AIPP configurations: how an Ascend device converts uint8 pixels to the input of the net.

A configuration is a text file with `key: value` lines in aipp_op { }. For each channel, after an R/B swap, the device
computes (pixel - mean_chn - min_chn) * var_reci_chn. Source: CANN manual, ATC, "AIPP configuration", its file template.
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
        FaceError: no such file, or not one static AIPP for 3-channel uint8 pixels.
    """
    path = require_file(path, "AIPP configuration")
    text = re.sub(r"#.*", "", path.read_text(errors="replace"))
    settings = dict(_SETTING.findall(text))
    wanted = {"aipp_mode": "static", "input_format": "RGB888_U8", "csc_switch": "false"}
    for key, value in wanted.items():
        if settings.get(key, "false" if key == "csc_switch" else None) != value:
            raise FaceError(
                f"Faces reach the device as RGB or BGR bytes, so an AIPP configuration has {key}: {value}. "
                f"'{path}' has {settings.get(key, 'no such line')}. Start from om/aipp.cfg."
            )
    if len(re.findall(r"aipp_op\s*\{", text)) != 1:
        raise FaceError(f"A net with one input has one aipp_op {{ }}. '{path}' has none or several. See om/aipp.cfg.")
    return settings


def io_with_aipp(io: Io, path: Path) -> Io:
    """How to feed a net with AIPP in front of it: uint8 raw pixels, with R and B swapped if AIPP swaps them.

    Args:
        io: how the net itself is fed.
        path: the AIPP configuration.

    Raises:
        FaceError: the output of AIPP is not what the net takes.
    """
    settings = read_aipp(path)
    for key, size in (("src_image_size_h", io.size[0]), ("src_image_size_w", io.size[1])):
        if settings.get(key, str(size)) != str(size):
            raise FaceError(
                f"The net takes {io.size[0]}x{io.size[1]}. '{path}' has {key}: {settings[key]}. Correct it."
            )
    if io.layout != "nhwc":
        raise FaceError(f"AIPP feeds nets with layout NHWC. Received: {io.layout}. Leave --insert_op_conf out.")
    means, deviations = (np.broadcast_to(value, 3) for value in PIXEL_SCALINGS[io.pixels])
    for channel in range(3):
        mean, low, factor = (float(settings.get(f"{key}_{channel}", value)) for key, value in _NEUTRAL.items())
        rgb = channel if io.colour == "rgb" else 2 - channel  # AIPP counts the channels that the net gets
        shift, scale = means[rgb], 1 / deviations[rgb]
        if abs(mean + low - shift) > 1e-3 or abs(factor / scale - 1) > 1e-3:
            why = "the net scales pixels itself" if io.pixels == "raw" else f"the net takes pixels as '{io.pixels}'"
            raise FaceError(
                f"The output of AIPP is the input of the net, and {why}: channel {channel} needs min_chn {shift:g} "
                f"and var_reci_chn {scale:.9g}. '{path}' has mean_chn {mean:g}, min_chn {low:g}, "
                f"var_reci_chn {factor:.9g}. Correct it."
            )
    is_swapped = settings.get("rbuv_swap_switch", "false") == "true"
    colour = {"rgb": "bgr", "bgr": "rgb"}[io.colour] if is_swapped else io.colour
    return replace(io, dtype="uint8", pixels="raw", colour=colour)

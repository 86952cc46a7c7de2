"""Estimate with Vela what an int8 .tflite costs on Arm's Ethos-U: time, memory, and operations that run on the CPU.

python mcu/vela_report.py runs/demo/export/model_int8.tflite

Vela compiles the model for each accelerator and estimates the cost; this needs no real accelerator. The script writes
X.vela.json, and X.vela.png with the layers that take most time.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
from collections.abc import Sequence

from facelib.cli import run_cli, script_parser
from facelib.export.mcu.vela import Estimate, draw, estimate
from facelib.files import require_file, sha256_of, write_bytes, write_json
from facelib.runtimes.tflite import read_ops

ACCELERATORS = ("ethos-u55-128", "ethos-u55-256", "ethos-u65-512", "ethos-u85-256")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("model", type=Path, metavar="X.tflite", help="int8 model")
    accelerators_help = f"accelerators, named as in Vela's --accelerator-config (default: {' '.join(ACCELERATORS)})"
    add("--accelerators", nargs="+", default=ACCELERATORS, metavar="NAME", help=accelerators_help)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    read_ops(require_file(args.model, "TFLite model"))  # refuses what is no model before Vela starts
    estimates = [estimate(args.model, name) for name in dict.fromkeys(args.accelerators)]
    print(table(estimates))
    for each in estimates:
        for operation in each.on_cpu:
            print(f"{each.accelerator}: on the CPU: {operation}")
    report, picture = (args.model.with_name(f"{args.model.name}.vela.{suffix}") for suffix in ("json", "png"))
    found = {"sha256": sha256_of(args.model), "estimates": [each.as_dict() for each in estimates]}
    write_bytes(picture, draw(estimates))
    write_json(report, {"artifact": args.model.name, **found})
    print(f"wrote {report} and {picture}")
    return 0


def table(estimates: Sequence[Estimate]) -> str:
    """The estimates as a Markdown table."""
    lines = [
        "| accelerator | system | MHz | ms | SRAM KiB | flash or DRAM KiB | on the NPU | off it |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in estimates:
        sizes = f"{each.sram_bytes / 1024:.1f} | {each.flash_bytes / 1024:.1f}"
        name = f"{each.accelerator} | {each.system} | {each.clock_mhz:.0f}"
        lines.append(f"| {name} | {each.ms:.2f} | {sizes} | {each.on_npu} | {len(each.on_cpu)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_cli(main)

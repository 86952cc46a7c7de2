"""Check the embeddings of a device: cosine to the float model, ACC, VR, pass or fail, the likely mistake.

    python accept.py OUTPUT.npy
    python accept.py output.bin --dtype int8 --zero-point -3     the integers of the chip, unchanged
    python accept.py one.npy --self-test                         first: one embedding, of self_test.png

OUTPUT must have one embedding for each crop in the folder test, in the same order: as .npy, text, or raw
little-endian values. The embeddings need not be normalised. This script needs only NumPy and the files beside it.
"""

import argparse
import base64
import json
import re
import sys
from pathlib import Path

import numpy as np

DTYPES = {"float32": "<f4", "float16": "<f2", "int8": "i1", "uint8": "u1"}
TEXTS = (".txt", ".csv", ".tsv")


class Refused(Exception):
    """The output cannot be judged, or failed. The message is one line."""


def read_output(path, shape, dtype="float32", zero_point=None):
    """The embeddings in a file: float64 [N, D].

    Args:
        path: .npy, text (.txt, .csv, .tsv) or raw values.
        shape: (N, D).
        dtype: of raw values, a key of `DTYPES`.
        zero_point: of integers. Their scale does not matter, because embeddings are normalised.
    """
    path = Path(path)
    try:
        if path.suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        elif path.suffix in TEXTS:
            values = np.array(re.split(r"[\s,;\[\]]+", path.read_text(encoding="utf-8").strip(" \t\r\n,;[]")), float)
        else:
            values = np.frombuffer(path.read_bytes(), DTYPES[dtype])
    except (OSError, ValueError, EOFError) as error:
        raise Refused(f"'{path}' cannot be read ({' '.join(str(error).split())}).") from error
    if values.size != shape[0] * shape[1] or (values.ndim > 1 and values.shape[0] != shape[0]):
        raise Refused(
            f"OUTPUT must have {shape[0]} embeddings of {shape[1]} values, one for each crop. '{path}' has "
            f"{values.size} values, shape {list(values.shape)}. If the values are raw, check --dtype."
        )
    if values.dtype.kind in "iu" and zero_point is None:
        raise Refused(f"'{path}' has integers. Pass the zero point of the output tensor: --zero-point N.")
    return values.reshape(shape).astype(float) - (zero_point or 0)


def unit(rows):
    """Rows of unit length; those of zeros stay."""
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


def rates(rows, genuine, threshold):
    """(ACC, VR) at a threshold: rows 2k and 2k + 1, unit [2P, D], are pair k; genuine is bool [P]."""
    is_close = np.square(rows[0::2] - rows[1::2]).sum(1) <= threshold
    return float((is_close == genuine).mean()), float(is_close[genuine].mean())


def between(rows):
    """Mean cosine between different rows, unit [N, D]."""
    return float((np.square(rows.sum(0)).sum() - len(rows)) / (len(rows) * (len(rows) - 1)))


def find_mistake(rows, expected, mistakes, facts):
    """'The likely cause: BGR for RGB (cosine 0.998 with this mistake). Swap ...', or ''.

    Args:
        rows: unit [N, D], of the device.
        expected: unit [N, D], of the float model.
        mistakes: unit [M, N, D], of the float model, fed wrongly in M ways.
        facts: of kit.json.
    """
    error, limits = 1 - float((rows * expected).sum(1).mean()), facts["limits"]
    if error <= 1 - limits["right_cosine"]:
        return ""
    cosines = (rows * mistakes).sum(2).mean(1)
    best = int(cosines.argmax())
    nearest = (rows @ expected.T).argmax(1)
    in_order = float((rows * expected[nearest]).sum(1).mean())
    if (nearest != np.arange(len(rows))).mean() > 0.5 and in_order > cosines[best]:
        name, advice, cosine = "crops in a different order", "Embed the crops in the order of test/crops.npy", in_order
    else:
        name, advice, cosine = facts["mistakes"][best]["name"], facts["mistakes"][best]["advice"], float(cosines[best])
    return (
        f"The likely cause: {name} (cosine {cosine:.3f} with this mistake). {advice}."
        if 1 - cosine <= limits["explains"] * error
        else ""
    )


def judge(output, folder, min_cosine=None):
    """Prints the table of an output, float [N, D]; returns what is wrong with it, texts."""
    facts = json.loads((folder / "kit.json").read_text(encoding="utf-8"))
    expected = unit(np.load(folder / "test" / "expected.npy").astype(float))
    mistakes = unit(np.load(folder / "test" / "mistakes.npy").astype(float))
    genuine, threshold = np.array(facts["genuine"]), facts["threshold"]
    if not np.isfinite(output).all() or not np.abs(output).sum(1).all():
        return ["an embedding is zero or not finite"]
    rows, limits = unit(output), facts["limits"]
    lowest = limits["min_cosine"] if min_cosine is None else min_cosine
    cosines = (rows * expected).sum(1)
    print(f"{len(rows)} crops, cosine to the float model: mean {cosines.mean():.4f}, worst {cosines.min():.4f}")
    print(f"threshold {threshold['distance']:.4f} (squared L2), for FAR {threshold['far']:g} on {threshold['set']}")
    print(f"{len(genuine)} pairs      float model    device")
    wrong = [] if cosines.mean() >= lowest else [f"mean cosine {cosines.mean():.4f} is below {lowest:g}"]
    kinds = (("ACC", limits["max_acc_drop"], len(genuine)), ("VR", limits["max_vr_drop"], int(genuine.sum())))
    both = [rates(each, genuine, threshold["distance"]) for each in (expected, rows)]
    for i, (name, points, count) in enumerate(kinds):
        before, now = both[0][i], both[1][i]
        print(f"{name:12}  {100 * before:9.2f} %  {100 * now:8.2f} %")
        if before - now > max(points / 100, 1 / count) + 1e-9:  # one pair decides nothing
            wrong.append(f"{name} fell by {100 * (before - now):.2f} points")
    print(f"mean cosine between faces: {between(rows):.2f}, float model {between(expected):.2f}")
    if between(rows) > limits["same_face"] > between(expected):
        wrong.append("different faces look the same")
    if mistake := find_mistake(rows, expected, mistakes, facts):
        wrong.append(mistake)
    return wrong


def judge_self_test(output, facts):
    """Prints the cosine of an output, float [1, D], for the image of the self test; returns what is wrong, texts."""
    test = facts["self_test"]
    right, *wrong = [
        unit(np.frombuffer(base64.b64decode(one["embedding"]), "<f4").astype(float)[None])
        for one in (test, *test["mistakes"])
    ]
    cosine = float((unit(output) * right).sum()) if np.isfinite(output).all() else -1.0
    print(f"self test: cosine {cosine:.4f}, at least {facts['limits']['min_cosine']:g}")
    if cosine >= facts["limits"]["min_cosine"]:
        return []
    mistake = find_mistake(unit(output), right, np.stack(wrong), {**facts, "mistakes": test["mistakes"]})
    return [mistake or "the input or the computation is wrong, but it fits no known mistake"]


def main(argv=None, folder=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", metavar="OUTPUT", help="file with the embeddings of the device")
    parser.add_argument(
        "--dtype", choices=tuple(DTYPES), default="float32", help="data type of raw values (default: float32)"
    )
    parser.add_argument("--zero-point", type=int, metavar="N", help="zero point of integer values")
    parser.add_argument(
        "--min-cosine", type=float, metavar="C", help="lowest mean cosine (default: the limit in kit.json)"
    )
    parser.add_argument(
        "--self-test",
        action="store_true",
        help="OUTPUT holds only one embedding, that of self_test.png: check this embedding",
    )
    args = parser.parse_args(argv)
    folder = Path(folder or Path(__file__).resolve().parent)
    try:
        shape = np.load(folder / "test" / "expected.npy", mmap_mode="r").shape
        shape = (1, shape[1]) if args.self_test else shape
        output = read_output(args.output, shape, args.dtype, args.zero_point)
        if args.self_test:
            wrong = judge_self_test(output, json.loads((folder / "kit.json").read_text(encoding="utf-8")))
        else:
            wrong = judge(output, folder, args.min_cosine)
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("fail: " + "; ".join(wrong) if wrong else "pass")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""A .tflite is checked before LiteRT reads it: LiteRT trusts numbers in the file, and a wrong one ends the process.

LiteRT verifies the offsets of the flatbuffer. It does not verify zero points and sizes, and it runs loops.
"""

import functools
import math
import struct

import numpy as np

from facelib.errors import FaceError, short_name

MAX_BYTES = 2**31  # of all tensors together; the largest face nets have 0.5 GB

# Operations that loop, call code outside LiteRT, or keep values from one call to the next. A face embedder has none.
_REFUSED = ("ASSIGN_VARIABLE", "CALL", "CALL_ONCE", "CUSTOM", "DELEGATE", "HASHTABLE", "HASHTABLE_FIND",
            "HASHTABLE_IMPORT", "HASHTABLE_LOOKUP", "HASHTABLE_SIZE", "PLACEHOLDER_FOR_GREATER_OP_CODES",
            "READ_VARIABLE", "STABLEHLO_CUSTOM_CALL", "STABLEHLO_WHILE", "VAR_HANDLE", "WHILE")  # fmt: skip
_BYTES = {"FLOAT32": 4, "FLOAT16": 2, "BFLOAT16": 2, "FLOAT64": 8, "INT8": 1, "UINT8": 1, "INT16": 2, "UINT16": 2,
          "INT32": 4, "UINT32": 4, "INT64": 8, "UINT64": 8, "BOOL": 1, "COMPLEX64": 8, "COMPLEX128": 16,
          "INT4": 0.5, "UINT4": 0.5, "INT2": 0.25}  # fmt: skip
_UNREADABLE = (ValueError, TypeError, IndexError, AttributeError, KeyError, OverflowError, MemoryError,
               struct.error)  # fmt: skip


@functools.lru_cache(maxsize=1)  # an embedder opens the same bytes once a thread
def check_tflite(data: bytes, name: str) -> None:
    """Checks a model: operations, numbers of tensors and buffers, sizes, scales and zero points.

    Args:
        data: the file.
        name: of the model, in errors.

    Raises:
        FaceError: an operation that does more than compute, named; or a number that cannot be.
    """
    from ai_edge_litert import schema_py_generated as schema

    kinds, types = enumeration(schema.BuiltinOperator), enumeration(schema.TensorType)
    try:
        model = schema.ModelT.InitFromPackedBuf(data, 0)
        codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
        names = [kinds.get(code, f"operation {code}") for code in codes]
        refused = {f"{name} {short_name(code.customCode.decode(errors='replace'))}" if code.customCode else name
                   for name, code in zip(names, model.operatorCodes, strict=True)
                   if name in _REFUSED or name not in kinds.values()}  # fmt: skip
        problem = None if refused else _problem(model, types)
    except _UNREADABLE as error:
        refused, problem = set(), f"its tables cannot be read: {' '.join(str(error).split())[:100]}"
    if refused:
        raise FaceError(
            f"The operations of a face net must only compute. {name} has operations that loop, call other code or are "
            f"unknown here: {', '.join(sorted(refused)[:10])}. The model was not run: convert the net without these "
            "operations."
        )
    if problem:
        raise FaceError(f"{name} is damaged: {problem}. Make the file again, or copy it again.")


def enumeration(kind: type) -> dict[int, str]:
    """{value: name} for an enumeration in TFLite's schema."""
    return {value: name for name, value in vars(kind).items() if isinstance(value, int)}


def _problem(model, types: dict[int, str]) -> str | None:
    """What is wrong with the numbers of a model; None if nothing is."""
    for graph in model.subgraphs:
        num_tensors, total = len(graph.tensors), 0.0
        for index, tensor in enumerate(graph.tensors):
            size = _num_bytes(tensor, types)
            stored = model.buffers[tensor.buffer].data
            total += size
            if total > MAX_BYTES:
                return f"tensor {index} brings the tensors to more than {MAX_BYTES // 2**30} GiB"
            if stored is not None and len(stored) and size and len(stored) != math.ceil(size) and not tensor.sparsity:
                return f"tensor {index} has {len(stored)} bytes for {math.ceil(size)}"
            if quantisation := _quantisation_problem(tensor, types):
                return f"tensor {index} has {quantisation}"
        for operator in graph.operators:
            used = [*_ints(operator.inputs), *_ints(operator.outputs)]
            if not 0 <= operator.opcodeIndex < len(model.operatorCodes) or not len(_ints(operator.outputs)):
                return "an operation is not in its table"
            if any(not -1 <= tensor < num_tensors for tensor in used):
                return "an operation uses a tensor that is not there"
        if any(not 0 <= tensor < num_tensors for tensor in [*_ints(graph.inputs), *_ints(graph.outputs)]):
            return "an input or output is not there"
    return None if model.subgraphs else "it has no graph"


def _num_bytes(tensor, types: dict[int, str]) -> float:
    """Bytes of a tensor; a side of unknown length counts as 1, an unknown type as 0."""
    return math.prod(max(1, side) if side < 0 else side for side in _ints(tensor.shape)) * _BYTES.get(
        types.get(tensor.type, ""), 0
    )


def _quantisation_problem(tensor, types: dict[int, str]) -> str | None:
    quantisation, kind = tensor.quantization, types.get(tensor.type, "")
    if quantisation is None or quantisation.scale is None:
        return None
    scales, zeros = np.atleast_1d(quantisation.scale), np.array(_ints(quantisation.zeroPoint), np.int64)
    if not np.all(np.isfinite(scales)) or np.any(scales < 0):
        return "a scale that is not a positive number"
    if len(zeros) not in (0, 1, len(scales)):
        return f"{len(scales)} scales and {len(zeros)} zero points"
    sides = _ints(tensor.shape)
    if len(scales) > 1:
        axis = quantisation.quantizedDimension
        if not 0 <= axis < len(sides) or sides[axis] != len(scales):
            return f"{len(scales)} scales, which its shape does not have"
    if kind in ("INT8", "UINT8", "INT16", "UINT16"):
        limits = np.iinfo(kind.lower())
        if np.any((zeros < limits.min) | (zeros > limits.max)):
            return f"a zero point outside of {kind.lower()}"
    return None


def _ints(values) -> list[int]:
    return [] if values is None else [int(value) for value in values]

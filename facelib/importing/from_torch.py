"""Reads state dicts of PyTorch (.pt, .pth): InsightFace's iresnet18, 34, 50, 100 and mbf.

The file is read without PyTorch, and nothing in it is run (torch_file.py). Its net becomes ONNX in memory, which ONNX
Runtime runs, so that the import is compared with the original like any other.
"""

import math

from facelib.errors import FaceError
from facelib.importing.from_onnx import rebuild
from facelib.importing.job import Imported, Job
from facelib.importing.torch_file import Tensor, TorchFile, dicts_of, read_torch_file

MAX_VALUES = 1 << 28
_PREFIXES = ("module.", "backbone.", "model.", "_orig_mod.")  # of DataParallel, a wrapper, torch.compile
_KNOWN = ("conv1.weight", "layers.0.layers.0.weight")  # the first weights of iresnet and mbf


def read(job: Job) -> Imported:
    """The backbone of ours that a state dict of InsightFace is.

    Raises:
        FaceError: another net, or a file that holds more than tensors.
    """
    from facelib.importing.arcface_torch import to_onnx

    file = read_torch_file(job.path)
    state = find_state(file)
    if (count := sum(math.prod(tensor.shape) for tensor in state.values())) > MAX_VALUES:
        raise FaceError(
            f"'{job.path}' is not an iresnet100: its state has {count:,} values, but an iresnet100 has 65 million."
        )
    tensors = {name: file.values(tensor) for name, tensor in state.items()}
    return rebuild(to_onnx(tensors, job.path, job.size or (112, 112)), job, is_file=False)


def find_state(file: TorchFile) -> dict[str, Tensor]:
    """The state dict of the backbone in a checkpoint, without the prefixes of wrappers.

    Raises:
        FaceError: no tensors with names.
    """
    states = [state for content in dicts_of(file.content) if (state := _tensors_of(content))]
    if not states:
        raise FaceError(
            f"A PyTorch file must hold a state dict (names and tensors) to be imported. '{file.path}' has none. Save "
            "one in PyTorch: torch.save(net.state_dict(), 'net.pt')."
        )
    return next((state for state in states if any(name in state for name in _KNOWN)), states[0])


def _tensors_of(content: dict) -> dict[str, Tensor]:
    state = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    while prefix := next((word for word in _PREFIXES if state and all(name.startswith(word) for name in state)), ""):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state

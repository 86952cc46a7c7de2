"""Whether XLA compiles the training step: `compile` of a recipe. "auto" is measured in the first steps on a GPU."""

import statistics
import time
from collections.abc import Callable, Sequence

import tensorflow as tf

from facelib.tensorflow_env import for_xla, has_gpu

_ROUNDS = 5  # measured steps of each; the first one compiles
_MUST_GAIN = 0.97  # of the time without XLA: less is within the noise


def compiled_step(
    take: Callable, signature: Sequence, choice: str, obstacle: str = "", say: Callable[[str], object] = print
) -> Callable:
    """The step as a function of its graph.

    Args:
        take: the computations of a step; its first result is a scalar.
        signature: a `tf.TensorSpec` for each argument.
        choice: 'none', 'xla' or 'auto'. 'auto' is 'none' on a CPU, where XLA is slower.
        obstacle: why this step is not left to XLA; "" if nothing speaks against it.
        say: gets one line about what was measured.
    """
    plain = tf.function(take, input_signature=signature, autograph=False)
    if choice == "none" or obstacle or (choice == "auto" and not has_gpu()):
        if choice == "xla" and obstacle:
            say(f"compile: without XLA, {obstacle}")
        return plain

    def take_compiled(*inputs):
        with for_xla():
            return take(*inputs)

    compiled = CompiledStep(
        tf.function(take_compiled, input_signature=signature, jit_compile=True, autograph=False), say
    )
    return compiled if choice == "xla" else FasterStep(plain, compiled, say)


class CompiledStep:
    """Takes steps with XLA, which compiles once for each batch size, and says how long that took.

    Args:
        compiled: the step with XLA.
        say: gets a line for each batch size.
    """

    def __init__(self, compiled: Callable, say: Callable[[str], object]):
        self._compiled, self._say = compiled, say
        self._sizes: set[int] = set()

    def __call__(self, *inputs):
        """Takes one step; see `facelib.training.step.make_step`."""
        size = len(inputs[0])
        if size in self._sizes:
            return self._compiled(*inputs)
        start = time.perf_counter()
        found = self._compiled(*inputs)
        float(found[0])  # waits for the device
        self._sizes.add(size)
        self._say(
            f"compile: the first step with {size} images, including the compilation with XLA, took "
            f"{time.perf_counter() - start:.0f} s"
        )
        return found


class FasterStep:
    """Takes the first steps in turns without and with XLA, then all others in the way that was faster.

    Both compute the same step, so each of these steps is one of the training.

    Args:
        plain: the step without XLA.
        compiled: the step with XLA.
        say: gets one line with the choice.

    Attributes:
        chosen: the faster one; None while it is measured.
        turns: steps until it is chosen.
    """

    turns = 2 * (_ROUNDS + 1)

    def __init__(self, plain: Callable, compiled: Callable, say: Callable[[str], object]):
        self._steps, self._say = (plain, compiled), say
        self._seconds: tuple[list[float], list[float]] = ([], [])
        self.chosen: Callable | None = None

    def __call__(self, *inputs):
        """Takes one step; see `facelib.training.step.make_step`."""
        if self.chosen is not None:
            return self.chosen(*inputs)
        number = int(len(self._seconds[1]) < len(self._seconds[0]))
        start = time.perf_counter()
        try:
            found = self._steps[number](*inputs)
            float(found[0])  # waits for the device
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError, tf.errors.InternalError) as error:
            if number == 0 or self._seconds[1]:  # XLA refuses when it compiles, before anything has moved
                raise
            self.chosen = self._steps[0]
            self._say(f"compile = 'auto': without XLA, which cannot compile this step ({_first_line(error)})")
            return self.chosen(*inputs)
        self._seconds[number].append(time.perf_counter() - start)
        if len(self._seconds[1]) > _ROUNDS:
            self._choose()
        return found

    def _choose(self) -> None:
        plain, compiled = (statistics.median(seconds[1:]) for seconds in self._seconds)
        is_faster = compiled < _MUST_GAIN * plain
        self.chosen = self._steps[int(is_faster)]
        peaks = [
            tf.config.experimental.get_memory_info(gpu.name)["peak"] for gpu in tf.config.list_logical_devices("GPU")
        ]
        memory = f", {max(peaks) / (1 << 20):,.0f} MiB of the GPU at most" if peaks else ""
        self._say(
            f"compile = 'auto': {'with' if is_faster else 'without'} XLA (a step {1000 * compiled:.1f} ms with it, "
            f"{1000 * plain:.1f} ms without; compiled in {self._seconds[1][0]:.0f} s{memory})"
        )


def _first_line(error: Exception) -> str:
    return str(getattr(error, "message", error)).strip().split("\n")[0][:160]

"""The processes that train one model together (`Workers`), and the operations that they share.

TensorFlow's MultiWorkerMirroredStrategy connects the cluster. Each process runs the training step by itself; what all
of them must know goes through TensorFlow's collective operations, which all workers call in the same order.

The rule for gradients: all workers compute the same loss, one number. The gradient on a worker is the derivative of
this loss with respect to what the worker holds. Three cases follow:

- `sum` of values that every worker then uses in the same way: the gradient passes through unchanged.
- `sum(..., adds_gradients=True)` and `gathering`: each worker uses the result in its own way (the logits of its classes
  use the embeddings of all faces), so the gradients of all workers are added.
- `once`: a term that every worker computes from gathered values, so it must not count once for each worker.

A `tf.function` with collective operations has an input signature without sizes. TensorFlow numbers the operations when
it traces the function; a worker that traced again, for a batch of another size, would wait for ever.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import tensorflow as tf

from facelib.distributed.peer_watch import PeerWatch
from facelib.errors import FaceError
from facelib.tensorflow_env import has_gpu

_GROUP = 9001  # key of our collective operations; the strategy's own keys count from 1


# What TensorFlow raises when a worker is gone; DeadlineExceededError when it is there and does not answer.
_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)


class Workers:
    """All processes of a training, seen from one of them. One worker communicates nothing.

    Attributes:
        rank: number of this worker, from 0. Worker 0 alone evaluates, prints and writes.
        count: number of workers.
        on_host: number of workers on this machine.
        most: images of one worker in a step, at most; see `expect`.
    """

    def __init__(self, rank: int = 0, count: int = 1, on_host: int = 1):
        self.rank, self.count, self.on_host = rank, count, on_host
        self.most = 0
        # The strategy, which must live as long as the training, and the peer watch; `open_workers` sets it.
        self.held: tuple[tf.distribute.Strategy, PeerWatch] | None = None
        self._instance = 0
        self._token: tf.Variable | None = None
        self._host_sum = tf.function(self.sum, input_signature=[tf.TensorSpec([count], tf.float64)], autograph=False)

    def expect(self, batch_size: int) -> None:
        """Sets the most images that a step has, those of all workers together. Call it before any step is made."""
        if self.count > 1:
            self.most = -(-batch_size // self.count)

    @property
    def is_chief(self) -> bool:
        """Whether this is worker 0."""
        return self.rank == 0

    # ------------------------------------------------------------------ inside a tf.function

    def sum(self, x, adds_gradients: bool = False, by_face: bool = False):
        """Adds `x` of all workers.

        Args:
            x: float tensor, of the same shape on every worker and in every step.
            adds_gradients: False if every worker computes the same from the total; the gradient then passes through.
                True if each worker uses the total in its own way; the gradients of all workers are then added.
            by_face: True if `x` is [B], a value for each face of all workers; B may differ between steps.

        Returns:
            The total, of the shape of `x`.
        """
        if self.count == 1:
            return x

        @tf.custom_gradient
        def add(value):
            total = self._reduce(value, "Add", by_face)
            return total, (lambda g: self._reduce(g, "Add", by_face)) if adds_gradients else (lambda g: g)

        return add(x)

    def max(self, x):
        """The maximum over all workers of a value for each face, [B]. It has no gradient."""
        return tf.stop_gradient(x) if self.count == 1 else self._reduce(tf.stop_gradient(x), "Max", by_face=True)

    def once(self, loss):
        """A scalar that every worker computes from gathered values: same value, 1 / count of the gradient."""
        if self.count == 1:
            return loss
        fixed = tf.stop_gradient(loss)
        return fixed + (loss - fixed) / self.count

    def gathering(self, num_rows) -> Callable:
        """Returns a function that stacks [num_rows, ...] of every worker to [rows of all, ...], in order of rank.

        Args:
            num_rows: int scalar tensor; it may differ between workers. Collective operations need one shape, so the
                rows are padded on the way.
        """
        if self.count == 1:
            return lambda x: x
        most = self.most
        # Values that say which rows are there, not the counts: int32 would be fetched from a GPU to compute with it.
        is_row = self._gather(tf.cast(tf.range(most) < tf.cast(num_rows, tf.int32), tf.float32))
        rows = tf.where(is_row)

        @tf.custom_gradient
        def stack(x):
            filled = self._gather(_pad_rows(x, most))

            def gradient(upstream):
                shape = tf.concat([[self.count * most], tf.shape(x)[1:]], 0)
                spread = self._reduce(tf.scatter_nd(tf.cast(rows, tf.int32), upstream, shape), "Add")
                return spread[self.rank * most : self.rank * most + tf.cast(num_rows, tf.int32)]

            return tf.gather_nd(filled, rows), gradient

        return stack

    def _reduce(self, x, operation: str, by_face: bool = False):
        num_faces = tf.shape(x)[0] if by_face else 0
        if by_face:  # the operation needs one shape for all steps
            x = _pad_rows(x, self.count * self.most)
        total = tf.raw_ops.CollectiveReduceV2(input=x, merge_op=operation, final_op="Id", **self._common())
        return total[:num_faces] if by_face else total

    def _gather(self, x):
        return tf.raw_ops.CollectiveGatherV2(input=x, **self._common())

    def _common(self) -> dict:
        """The arguments that all collective operations have.

        GPUs use NCCL; without the hint, TensorFlow would send every value through the hosts. NCCL waits for ever if two
        workers start the same two operations in different orders, so each names one variable, and a `tf.function` then
        runs them one after another. On CPUs the keys are enough, and independent operations may overlap.
        """
        self._instance += 1
        common = {"group_size": self.count, "group_key": _GROUP, "instance_key": self._instance}
        if not has_gpu():
            return common | {"ordering_token": []}
        if self._token is None:
            with tf.init_scope():
                self._token = tf.Variable(0.0, trainable=False)
        return common | {"ordering_token": [self._token.handle], "communication_hint": "nccl"}

    # ------------------------------------------------------------------ between the steps

    def total(self, values) -> np.ndarray:
        """Adds numbers of all workers, outside a `tf.function`. All workers wait for each other here.

        Args:
            values: a number, or up to one for each worker.

        Returns:
            float64 [N].

        Raises:
            FaceError: another worker is gone.
        """
        values = np.atleast_1d(np.asarray(values, np.float64))
        if self.count == 1:
            return values
        filled = np.pad(values, (0, self.count - len(values)))  # a collective operation needs one shape
        with self.naming_losses():
            return self._host_sum(tf.constant(filled)).numpy()[: len(values)]

    def wait(self) -> None:
        """Returns when all workers have called it."""
        self.total(0.0)

    def any(self, is_true: bool) -> bool:
        """Whether the condition is true for at least one worker."""
        return bool(self.total(float(is_true))[0])

    @contextmanager
    def naming_losses(self) -> Iterator[None]:
        """A context that turns TensorFlow's exceptions about a lost worker into a FaceError."""
        try:
            yield
        except _LOST as error:
            if self.count == 1:
                raise
            names = self.held[1].name_lost() if self.held else ""
            raise FaceError(
                f"Training needs all its workers. Worker {self.rank} has lost contact with other "
                f"workers{names and f': {names}'} ({_reason(error)}). See the output of the lost workers. Run the "
                "same command again to continue from the last checkpoint."
            ) from error

    def close(self) -> None:
        """Waits for all workers and stops the peer watch. After it a worker may end."""
        if self.held:
            self.wait()
            self.held[1].stop()

    def check_same(self, **parts: str) -> None:
        """Checks that a text, such as the recipe, is the same on all workers.

        Args:
            parts: texts by the name that the error message gives them.

        Raises:
            FaceError: on every worker, if one of the texts differs.
        """
        if self.count == 1:
            return
        for name, text in parts.items():
            # Six bytes: a float64 sum must hold it exactly.
            mine = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
            row = np.zeros(self.count)
            row[self.rank] = mine
            digests = self.total(row).astype(np.int64)
            odd = [str(rank) for rank, digest in enumerate(digests) if digest != digests[0]]
            if odd:
                raise FaceError(
                    f"All workers must train with the same {name}. Worker {', '.join(odd)} has a different {name} "
                    "from worker 0: use the same command and the same files for every worker."
                )


ONE_WORKER = Workers()


def _reason(error: tf.errors.OpError) -> str:
    """The part of TensorFlow's long message that says what happened."""
    lines = [line for line in str(error.message).split("\n") if "aborted by" in line or "Error" in line]
    return (lines or [type(error).__name__])[0].rpartition("aborted by: ")[2].partition(";")[0].strip()[:80]


def _pad_rows(x, most: int):
    missing = tf.concat([[most - tf.shape(x)[0]], tf.shape(x)[1:]], 0)
    return tf.concat([x, tf.zeros(missing, x.dtype)], 0)  # tf.pad has no GPU kernel for int64

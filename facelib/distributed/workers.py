"""The processes that train one model together, and the few operations they share. Names TensorFlow.

TensorFlow's MultiWorkerMirroredStrategy brings the cluster up; the step itself runs in each process alone, and what
must be known to all goes through TensorFlow's collective operations, called in the same order everywhere.

The rule for gradients: a loss is one number that every worker knows, and a worker's gradient is that of this number by
what the worker holds. So a sum that all workers use alike hands its gradient back as it is; what each uses for itself,
as its classes' logits use the gathered embeddings, has the sum of the gradients of all; and a term that all compute
alike from gathered values goes through `once`.

A `tf.function` that communicates has an input signature without sizes: collectives are numbered as they are traced, so
one worker that traced again, for a part of another size, would wait for ever.
"""

import hashlib
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import tensorflow as tf

from facelib.distributed.cluster import Cluster, set_tf_config
from facelib.distributed.peer_watch import PeerWatch
from facelib.distributed.rendezvous import JoinWatch, check_port
from facelib.errors import FaceError

_GROUP = 9001  # of our collectives: far from the strategy's own, which count from 1


class Workers:
    """All processes of a training, as one of them sees them. With one worker nothing is communicated.

    Attributes:
        rank: this one's number, from 0; worker 0 alone evaluates, prints and writes.   count: how many there are.
        on_host: how many of them share this one's machine.
    """

    def __init__(self, rank: int = 0, count: int = 1, on_host: int = 1):
        self.rank, self.count, self.on_host = rank, count, on_host
        self.most = 0  # faces of one worker in a step, at most
        self.held = None
        self._instance = 0
        self._host_sum = tf.function(self.sum, input_signature=[tf.TensorSpec([count], tf.float64)])

    def expect(self, batch_size: int) -> None:
        """Says how many images of all workers a step has at most; before any step is made."""
        if self.count > 1:
            self.most = -(-batch_size // self.count)

    @property
    def is_chief(self) -> bool:
        """Whether this is worker 0."""
        return self.rank == 0

    # ------------------------------------------------------------------ inside a tf.function

    def sum(self, x, is_used_alike: bool = True, by_face: bool = False):
        """The sum over all workers of `x`, any shape that is the same on each and in each step.

        Args:
            by_face: that it is [B], with a value for each of all workers' faces; their number may change.
            is_used_alike: that every worker goes on to compute the same from it, so each has the whole gradient.
        """
        if self.count == 1:
            return x

        @tf.custom_gradient
        def add(value):
            total = self._reduce(value, "Add", by_face)
            return total, (lambda g: g) if is_used_alike else (lambda g: self._reduce(g, "Add", by_face))

        return add(x)

    def max(self, x):
        """The maximum over all workers of a value for each face, [B]; no gradient."""
        return tf.stop_gradient(x) if self.count == 1 else self._reduce(tf.stop_gradient(x), "Max", by_face=True)

    def once(self, loss):
        """A scalar that every worker computes alike from gathered values, with the gradient of one worker."""
        if self.count == 1:
            return loss
        fixed = tf.stop_gradient(loss)
        return fixed + (loss - fixed) / self.count

    def gathering(self, num_rows) -> Callable:
        """A function that stacks [num_rows, ...] of each worker to [rows of all, ...], in order of rank.

        Workers may have different numbers of faces, an int scalar `num_rows`: collective operations want one shape, so
        rows are filled up.
        """
        if self.count == 1:
            return lambda x: x
        most = self.most
        counts = self._gather(tf.reshape(tf.cast(num_rows, tf.int32), [1]))
        is_row = tf.reshape(tf.sequence_mask(counts, most), [-1])
        rows = tf.reshape(tf.where(is_row), [-1])

        @tf.custom_gradient
        def stack(x):
            filled = self._gather(_fill_up(x, most))

            def gradient(upstream):
                shape = tf.concat([[self.count * most], tf.shape(x)[1:]], 0)
                spread = self._reduce(tf.scatter_nd(rows[:, None], upstream, tf.cast(shape, tf.int64)), "Add")
                return spread[self.rank * most : self.rank * most + tf.cast(num_rows, tf.int32)]

            return tf.gather(filled, rows), gradient

        return stack

    def _reduce(self, x, operation: str, by_face: bool = False):
        self._instance += 1
        num_faces = tf.shape(x)[0] if by_face else 0
        if by_face:  # one shape for all steps
            x = _fill_up(x, self.count * self.most)
        total = tf.raw_ops.CollectiveReduceV2(
            input=x, group_size=self.count, group_key=_GROUP, instance_key=self._instance, ordering_token=[],
            merge_op=operation, final_op="Id",
        )  # fmt: skip
        return total[:num_faces] if by_face else total

    def _gather(self, x):
        self._instance += 1
        return tf.raw_ops.CollectiveGatherV2(
            input=x, group_size=self.count, group_key=_GROUP, instance_key=self._instance, ordering_token=[]
        )

    # ------------------------------------------------------------------ between the steps

    def total(self, values) -> np.ndarray:
        """The sum over all workers of a number, or of one for each worker: float64 [N]; all wait for each other.

        Raises:
            FaceError: another worker is gone.
        """
        values = np.atleast_1d(np.asarray(values, np.float64))
        if self.count == 1:
            return values
        filled = np.pad(values, (0, self.count - len(values)))  # a collective operation has one shape
        with self.naming_losses():
            return self._host_sum(tf.constant(filled)).numpy()[: len(values)]

    def wait(self) -> None:
        """Returns when all workers have come here."""
        self.total(0.0)

    def any(self, is_true: bool) -> bool:
        """Whether it is true for at least one worker."""
        return bool(self.total(float(is_true))[0])

    @contextmanager
    def naming_losses(self) -> Iterator[None]:
        """Turns what TensorFlow raises when another worker is gone into one line."""
        try:
            yield
        except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
            if self.count == 1:
                raise
            raise FaceError(
                f"A training needs all its workers. Worker {self.rank} has lost another one ({_reason(error)}), whose "
                f"output may say why. The same command again continues from the last checkpoint."
            ) from error

    def close(self) -> None:
        """Waits for all; after this a worker may end without being missed."""
        if self.held:
            self.wait()
            self.held[1].stop()

    def check_same(self, **parts: str) -> None:
        """Raises FaceError, on every worker, when a part, such as the recipe, is not the same on all of them."""
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
                    f"All workers train on the same {name}. Worker {', '.join(odd)} has another {name} than worker 0: "
                    f"give every worker the same command, and the same files."
                )


ONE_WORKER = Workers()


def open_workers(cluster: Cluster, join_seconds: float) -> Workers:
    """Joins the cluster; returns when all its workers are there. Before anything else that TensorFlow computes.

    Raises:
        FaceError: this worker's port is in use, or a worker does not join within `join_seconds`. One that is lost later
            ends the process (see facelib/distributed/peer_watch.py): the main thread may be inside TensorFlow then.
    """
    if cluster.count == 1:
        return ONE_WORKER
    check_port(cluster)
    set_tf_config(cluster)
    from tensorflow.python.eager import context  # no public name for the heartbeat's patience

    # Its 10 s are too short for a machine that swaps or compiles; PeerWatch sees a worker that is gone, however busy.
    context.context().configure_coordination_service(
        "standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=int(1000 * join_seconds) + 60_000,
        heartbeat_timeout_in_ms=60_000,
        coordinated_jobs=_coordinated_jobs(cluster),
    )
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with JoinWatch(cluster, join_seconds):
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    signal.signal(signal.SIGTERM, on_sigterm)  # TensorFlow has put a handler of its own there, which ends nothing
    hosts = [address.rpartition(":")[0] for address in cluster.addresses]
    workers = Workers(cluster.rank, cluster.count, hosts.count(hosts[cluster.rank]))
    workers.wait()
    watch = PeerWatch(cluster)
    watch.start()
    workers.held = strategy, watch  # the strategy's end would close the cluster
    return workers


def _coordinated_jobs(cluster: Cluster) -> list:
    from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2

    return [coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=cluster.count)]


def _reason(error: tf.errors.OpError) -> str:
    """Of a long message of TensorFlow's, what happened."""
    lines = [line for line in str(error.message).split("\n") if "aborted by" in line or "Error" in line]
    return (lines or [type(error).__name__])[0].rpartition("aborted by: ")[2].partition(";")[0].strip()[:80]


def _fill_up(x, most: int):
    missing = most - tf.shape(x)[0]
    return tf.pad(x, tf.concat([[[0, missing]], tf.zeros([tf.rank(x) - 1, 2], tf.int32)], 0))

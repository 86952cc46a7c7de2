"""A worker of test_workers.py: losses and gradients of heads over its part of a batch, for the test to compare.

python worker_step.py OUT.npz CASE ...        with TF_CONFIG in the environment
"""

import random
import re
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from facelib.losses.registry import LOSSES

NUM_CLASSES, SIZE, BATCH = 23, 16, 11
CASES = {
    **{
        loss: {"scale": 8.0} if "scale" in spec.options else {}
        for loss, spec in LOSSES.items()
        if spec.kind == "margin"
    },
    "arcface sub-centres, filtered": {"scale": 8.0, "sub_centres": 3, "interclass_filtering": 0.7},
    "arcface smooth": {"scale": 8.0},
    "arcface sampled": {"scale": 8.0},
    "curricularface sampled": {"scale": 8.0, "sub_centres": 2},
}


def batch():
    """Embeddings float32 [B, D], labels int64 [B]: of all workers."""
    rng = np.random.default_rng(5)
    return (20 * rng.normal(size=(BATCH, SIZE))).astype(np.float32), rng.integers(0, NUM_CLASSES, BATCH)


def make(case: str, workers):
    """The head of a case, built; its centres do not depend on the workers."""
    from face_loss_k import make_head
    from facelib.losses.partial_fc import ClassSplit

    head = make_head(case.split()[0], NUM_CLASSES, CASES[case])
    head.split = ClassSplit(workers, 0.3 if "sampled" in case else 1.0, seed=4)
    random.seed(1)
    head.build((None, SIZE))
    head.centres.assign(10 * head.centres.value)
    return head


def compute(case: str, workers, sample=None) -> dict:
    """Two steps of a case: loss, accuracy, gradients of this worker's embeddings and of its centres, its classes.

    Args:
        case: a name in CASES.
        workers: the processes that compute it together.
        sample: (head, number of the step) -> SampledClasses, in place of `head.sample`.
    """
    import tensorflow as tf

    head, (embeddings, labels) = make(case, workers), batch()
    smoothing = 0.1 if "smooth" in case else 0.0

    # A signature, as the trainer's step has: traced again for one worker's other number of faces, its collectives would
    # have other instance keys than its peers', and all wait for ever.
    specs = tf.TensorSpec([None, SIZE], tf.float32), tf.TensorSpec([None], tf.int64), tf.TensorSpec([], tf.int64)

    @tf.function(input_signature=specs)
    def step(mine, labels, number):
        stack = workers.gathering(tf.shape(mine)[0])
        labels = stack(labels)
        sampled = sample(head, number) if sample else head.sample(labels, number)
        with tf.GradientTape() as tape:
            tape.watch([mine, sampled.centres])
            loss, accuracy = head.loss_and_accuracy(stack(mine), labels, 0.9, smoothing, sampled)
        by_face, by_centre = tape.gradient(loss, [mine, sampled.centres])
        classes = tf.range(sampled.num_held, dtype=tf.int64) if sampled.drawn is None else sampled.classes
        return loss, accuracy, by_face, by_centre, classes + sampled.first

    found = {}
    for number in range(2):  # the second has a face less, and sees the running statistics of the first
        mine = part_of(workers.rank, workers.count, BATCH - number)
        values = step(tf.constant(embeddings[mine]), tf.constant(labels[mine]), tf.constant(number, tf.int64))
        found[f"classes {number}"] = values[-1].numpy()
    names = ("loss", "accuracy", "by_face", "by_centre")
    return found | {name: value.numpy() for name, value in zip(names, values, strict=False)}


def part_of(rank: int, count: int, size: int) -> slice:
    return slice(size * rank // count, size * (rank + 1) // count)


def main():
    from facelib.distributed.cluster import find_cluster
    from facelib.distributed.rendezvous import open_workers

    cluster = find_cluster()
    workers = open_workers(cluster, 120)
    workers.expect(BATCH)
    caught = int(re.search(r"SigCgt:\s*(\w+)", Path("/proc/self/status").read_text())[1], 16)
    results = {c: compute(c, workers) for c in sys.argv[2:]}
    values = {f"{case}/{key}": value for case, found in results.items() for key, value in found.items()}
    np.savez(sys.argv[1], **values, catches_sigterm=bool(caught >> signal.SIGTERM - 1 & 1))
    workers.close()


if __name__ == "__main__":
    main()

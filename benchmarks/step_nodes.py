"""Count the nodes in the graph of a training step. On a GPU, launching each node takes some microseconds.

    python benchmarks/step_nodes.py [--backbone mobilefacenet] [--precision float32]

For each optimizer, the table has the number of all nodes (also those inside functions) and the number of nodes that
run. TensorFlow drops the other nodes, because they affect no result and no variable.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from facelib.cli import run_cli  # noqa: E402
from facelib.tensorflow_env import set_up_tensorflow  # noqa: E402
from facelib.training.recipe.schema import CHOICES, Recipe, Stage  # noqa: E402


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=CHOICES["backbone"], default="mobilefacenet", help="(%(default)s)")
    parser.add_argument("--precision", choices=CHOICES["precision"], default="float32", help="(%(default)s)")
    args = parser.parse_args(argv)
    set_up_tensorflow(0, args.precision, False)
    from backbones import build_backbone
    from facelib.losses.registry import make_head
    from facelib.models.registry import ModelConfig
    from facelib.training.stage_setup import StageParts

    print("| optimizer | nodes | of these run |\n|---|---|---|")
    for optimizer in CHOICES["optimizer"]:
        recipe = Recipe(stage=(Stage(optimizer=optimizer),))
        parts = StageParts(recipe, build_backbone(ModelConfig(backbone=args.backbone)), make_head, 1000, 0)
        parts.begin(0)
        total, running = count_nodes(parts.step)
        print(f"| {optimizer} | {total:,} | {running:,} |", flush=True)
    return 0


def count_nodes(function) -> tuple[int, int]:
    """(all nodes, those that run) of a `tf.function` with an input signature, its function library included.

    Args:
        function: such as the step of `facelib.training.step.make_step`.
    """
    graph = function.get_concrete_function().graph
    definition = graph.as_graph_def()
    library = sum(len(each.node_def) for each in definition.library.function)
    seen, todo = set(), [t.op for t in graph.outputs] + [op for op in graph.get_operations() if _has_effect(op)]
    while todo:
        op = todo.pop()
        if op not in seen:
            seen.add(op)
            todo += [*(t.op for t in op.inputs), *op.control_inputs]
    return len(definition.node) + library, len(seen) + library


def _has_effect(op) -> bool:
    return op.op_def is not None and op.op_def.is_stateful and op.type not in ("ReadVariableOp", "Placeholder")


if __name__ == "__main__":
    run_cli(main)

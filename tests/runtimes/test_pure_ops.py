"""What a graph file of a stranger may do: compute, and nothing else."""

import numpy as np
import pytest
import tensorflow as tf

from facelib.errors import FaceError
from facelib.runtimes.frozen_graph import load_graph, open_frozen, read_graph, save_graph
from facelib.runtimes.pure_ops import PURE_OPS

v1 = tf.compat.v1


def graph_file(path, build):
    """A graph file with the input `input_1` [N, 2] and the output `embeddings` = build(input_1)."""
    with tf.Graph().as_default() as graph:
        tf.identity(build(v1.placeholder(tf.float32, [None, 2], "input_1")), name="embeddings")
    save_graph(graph.as_graph_def(), path)
    return path


def in_a_function(effect):
    """The same inside a function of the library, called by PartitionedCall."""
    return lambda x: tf.function(effect, autograph=False)(x)


def writes(target):
    def effect(x):
        with tf.control_dependencies([tf.io.write_file(str(target), "owned")]):
            return tf.identity(x)

    return effect


def reads(target):
    def effect(x):
        return x + tf.cast(tf.strings.length(tf.io.read_file(str(target))), tf.float32)

    return effect


def prints(target):
    def effect(x):
        with tf.control_dependencies([tf.print("owned", output_stream=f"file://{target}")]):
            return tf.identity(x)

    return effect


def starts_python(target):
    return lambda x: v1.py_func(lambda y: y, [x], tf.float32)


def loops_for_ever(target):
    return lambda x: tf.while_loop(lambda _: True, lambda y: (y + 1,), [x])[0]


def loops_for_ever_as_tf1_does(target):
    def effect(x):
        v1.disable_control_flow_v2()
        try:
            return v1.while_loop(lambda _: True, lambda y: y + 1, [x])
        finally:
            v1.enable_control_flow_v2()

    return effect


EFFECTS = [(writes, "WriteFile"), (reads, "ReadFile"), (prints, "PrintV2"), (starts_python, "PyFunc"),
           (loops_for_ever, "While"), (loops_for_ever_as_tf1_does, "Enter|While")]  # fmt: skip


@pytest.mark.parametrize("inside", [False, True], ids=["graph", "function"])
@pytest.mark.parametrize("make, op", EFFECTS, ids=[op for _, op in EFFECTS])
def test_an_operation_with_an_effect_is_refused_by_name_and_not_run(tmp_path, make, op, inside):
    target = tmp_path / "target"
    effect = make(target)
    path = graph_file(tmp_path / "foreign.pb", in_a_function(effect) if inside else effect)

    with pytest.raises(FaceError, match=rf"foreign\.pb.*{op}") as refusal:
        open_frozen(path)

    assert "\n" not in str(refusal.value)
    assert not target.exists()


def test_a_function_named_as_an_operation_does_not_hide_it(tmp_path):
    path = graph_file(tmp_path / "f.pb", in_a_function(lambda x: x + 1))
    graph = read_graph(path)
    graph.library.function[0].signature.name = "WriteFile"
    save_graph(graph, path)

    with pytest.raises(FaceError, match="WriteFile"):
        load_graph(path)


def test_a_function_that_calls_itself_is_refused(tmp_path):
    path = graph_file(tmp_path / "f.pb", in_a_function(lambda x: x + 1))
    graph = read_graph(path)
    (function,) = graph.library.function
    call = next(node for node in graph.node if node.op.endswith("PartitionedCall"))
    function.node_def.add(name="again", op="StatefulPartitionedCall").attr["f"].CopyFrom(call.attr["f"])
    save_graph(graph, path)

    with pytest.raises(FaceError, match="calls itself"):
        load_graph(path)


def test_a_function_that_only_computes_runs(tmp_path):
    path = graph_file(tmp_path / "f.pb", in_a_function(lambda x: tf.cond(tf.reduce_sum(x) > 2, lambda: x, lambda: -x)))

    np.testing.assert_array_equal(open_frozen(path)([[1, 2], [3, 4]]), [[1, 2], [3, 4]])


def test_a_constant_that_would_fill_the_memory_is_refused(tmp_path):
    path = graph_file(tmp_path / "bomb.pb", lambda x: x * tf.constant([1.0, 2.0], name="scale"))
    graph = v1.GraphDef.FromString(path.read_bytes())
    value = next(node for node in graph.node if node.name == "scale").attr["value"].tensor
    value.tensor_content, value.float_val[:] = b"", [1.0]  # one value for the whole tensor
    value.tensor_shape.dim[0].size = 10**12
    save_graph(graph, path)

    with pytest.raises(FaceError, match=r"GiB.*bomb\.pb"):
        load_graph(path)


def test_the_list_holds_names_of_tensorflow_without_files_resources_or_loops():
    from tensorflow.python.framework import op_def_registry

    definitions = {name: op_def_registry.get(name) for name in PURE_OPS}

    assert not [name for name, definition in definitions.items() if definition is None]
    arguments = [(name, arg) for name, op in definitions.items() for arg in (*op.input_arg, *op.output_arg)]
    assert not [name for name, arg in arguments if arg.is_ref or arg.type in (tf.resource, tf.variant)]
    assert not [name for name in PURE_OPS if any(word in name for word in ("File", "Py", "Print", "While", "Iterat"))]
    stateful = {name for name, op in definitions.items() if op.is_stateful and "Random" not in name}
    assert stateful <= {"Assert", "Case", "CheckNumerics", "Empty", "GuaranteeConst", "If", "StatefulPartitionedCall",
                        "TruncatedNormal"}  # fmt: skip


@pytest.mark.parametrize("default", [None, False, True])
def test_a_graph_that_asks_for_the_phase_of_training_gets_false(tmp_path, default):
    def build(x):
        phase = (
            v1.placeholder(tf.bool, name="phase_train")
            if default is None
            else v1.placeholder_with_default(default, [], "phase_train")
        )
        return tf.cond(phase, lambda: x * np.nan, lambda: x * 2.0)

    run = open_frozen(graph_file(tmp_path / "phase.pb", build))

    np.testing.assert_array_equal(run([[1, 2]]), [[2, 4]])


@pytest.mark.parametrize("nested", [False, True])
def test_branches_of_tensorflow_1_that_false_decides_are_taken_or_gone(tmp_path, nested):
    def build(x):
        phase = v1.placeholder_with_default(True, [], "phase_train")
        v1.disable_control_flow_v2()
        try:
            inner = lambda: tf.cond(phase, lambda: x + np.inf, lambda: x * tf.constant(2.0))  # noqa: E731
            return tf.cond(phase, lambda: x * tf.constant(np.nan), inner if nested else lambda: x * 2.0)
        finally:
            v1.enable_control_flow_v2()

    path = graph_file(tmp_path / "phase.pb", build)

    assert not {"Switch", "Merge"} & {node.op for node in load_graph(path).node}
    np.testing.assert_array_equal(open_frozen(path)([[1, 2]]), [[2, 4]])


def test_a_switch_that_asks_a_circle_is_one_line(tmp_path):
    def build(x):
        phase = v1.placeholder(tf.bool, name="phase_train")
        return tf.raw_ops.Switch(data=x, pred=tf.identity(tf.identity(phase, "a"), "b"))[0]

    path = tmp_path / "circle.pb"
    graph = v1.GraphDef.FromString(graph_file(path, build).read_bytes())
    next(node for node in graph.node if node.name == "a").input[0] = "b"
    save_graph(graph, path)

    with pytest.raises(FaceError, match=r"circle\.pb"):
        open_frozen(path)


def test_a_node_that_is_not_there_and_an_output_that_is_not_there_are_one_line(tmp_path):
    path = graph_file(tmp_path / "x.pb", lambda x: x * 2.0)
    with pytest.raises(FaceError, match=r"cannot load.*embeddings:7"):
        open_frozen(path, output="embeddings:7")

    graph = load_graph(path)
    graph.node[-1].input[0] = "gone"
    save_graph(graph, path)
    with pytest.raises(FaceError, match=r"damaged.*gone"):
        open_frozen(path)


@pytest.mark.parametrize("part", ["input", "op", "name"])
def test_a_name_of_any_length_gives_a_short_line_that_still_says_what_to_do(tmp_path, part):
    path = graph_file(tmp_path / "x.pb", lambda x: x * 2.0)
    graph = load_graph(path)
    if part == "input":
        graph.node[-1].input[0] = "n" * 9000
    elif part == "op":
        graph.node[0].op = "n" * 9000
    else:
        for node in graph.node:
            node.name = node.name.replace("input_1", "n" * 9000)
            node.input[:] = [name.replace("input_1", "n" * 9000) for name in node.input]
    save_graph(graph, path)

    with pytest.raises(FaceError, match=r"nnn\.\.\.nnn") as error:
        open_frozen(path)

    message = str(error.value)
    assert len(message) < 1000 and message.endswith(
        ("copy it again.", "Use --input NAME.", "h5_2_pb.py MODEL.h5 does).")
    )

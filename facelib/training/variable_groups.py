"""Many variables as one long vector: a step then has a few operations where it had thousands.

A network has hundreds of variables, most of them short. An operation on each costs a GPU more time to start than to
compute. So the optimizer updates a copy of all short variables in one vector, and the result goes back into them. A
variable with more than MOST_VALUES values is updated by itself, where it lies.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from itertools import groupby

import keras
import numpy as np
import tensorflow as tf

from facelib.models.layers import AtMostOne

MOST_VALUES = 1 << 16  # of a short variable


class VariableGroup:
    """Short variables in one vector, or one long variable as it is.

    Args:
        variables: Keras variables of one dtype.
        kinds: for each of them, what `map_runs` treats alike.
        number: of the group; it names the vector.
        is_copy: whether `vector` is a copy of the variables; else it is the only variable itself.

    Attributes:
        runs: (kind, number of values) of the parts of the vector whose variables are of one kind.
    """

    def __init__(self, variables: Sequence, kinds: Sequence[Hashable], number: int, is_copy: bool):
        places = {kind: i for i, kind in enumerate(dict.fromkeys(kinds))}
        order = sorted(range(len(kinds)), key=lambda i: places[kinds[i]])  # those of a kind beside each other
        self.variables = [variables[i] for i in order]
        self.sizes = [int(np.prod(v.shape)) for v in self.variables]
        self.is_copy = is_copy
        runs = groupby(zip([kinds[i] for i in order], self.sizes, strict=True), key=lambda pair: pair[0])
        self.runs = [(kind, sum(size for _, size in pairs)) for kind, pairs in runs]
        self._shapes: dict = {}
        self._name = f"group_{number}"

    @cached_property
    def vector(self):
        """The Keras variable that the optimizer updates."""
        if not self.is_copy:
            return self.variables[0]
        return keras.Variable(
            initializer="zeros", shape=(sum(self.sizes),), dtype=self.variables[0].dtype, name=self._name
        )

    def map_runs(self, compute: Callable, *values):
        """Computes a tensor of the shape of `vector`, each kind of variables in its own way.

        Args:
            compute: `(kind, *parts of values) -> tensor` of the shape of a part.
            values: tensors of the shape of `vector`.
        """
        if len(self.runs) == 1:
            return compute(self.runs[0][0], *values)
        sizes = [size for _, size in self.runs]
        pieces = zip(*(tf.split(value, sizes) for value in values), strict=True)
        return tf.concat([compute(kind, *parts) for (kind, _), parts in zip(self.runs, pieces, strict=True)], 0)

    def join(self, values: Sequence):
        """One tensor of the shape of `vector` from a tensor for each variable."""
        if not self.is_copy:
            return values[0]
        flat = [value if value.shape.rank == 1 else tf.reshape(value, self._shape((-1,))) for value in values]
        return tf.concat(flat, 0) if len(flat) > 1 else flat[0]

    def split(self, value) -> list:
        """A tensor for each variable from one of the shape of `vector`."""
        if not self.is_copy:
            return [value]
        pieces = tf.split(value, self.sizes) if len(self.sizes) > 1 else [value]
        return [
            p if len(v.shape) == 1 else tf.reshape(p, self._shape(tuple(v.shape)))
            for p, v in zip(pieces, self.variables, strict=True)
        ]

    def _shape(self, shape: tuple[int, ...]):
        """The shape as a constant, one for all uses in a graph."""
        graph = tf.compat.v1.get_default_graph()
        if self._shapes.get("graph") is not graph:
            self._shapes = {"graph": graph}
        if shape not in self._shapes:
            self._shapes[shape] = tf.constant(shape)
        return self._shapes[shape]

    def read(self):
        """The values of the variables, in the shape of `vector`."""
        return self.join([v.value.value() for v in self.variables])

    def assign(self, value) -> None:
        """Sets the variables from a tensor of the shape of `vector`."""
        for variable, piece in zip(self.variables, self.split(value), strict=True):
            variable.value.assign(piece, read_value=False)


def group_variables(
    variables: Sequence, kinds: Sequence[Hashable] = (), alone: Sequence = (), first: int = 0
) -> list[VariableGroup]:
    """The short variables of each dtype in one group, each long one in a group of its own.

    Args:
        variables: Keras variables.
        kinds: for each of them, see `VariableGroup.map_runs`; none if all are treated alike.
        alone: those that are never in a vector, however short.
        first: number of the first group.
    """
    alone_ids = {id(v) for v in alone}
    members: dict[tuple[str, int | None], list[int]] = {}
    for i, variable in enumerate(variables):
        is_alone = np.prod(variable.shape) > MOST_VALUES or id(variable) in alone_ids
        members.setdefault((variable.dtype, i if is_alone else None), []).append(i)
    kinds = kinds or [None] * len(variables)
    return [
        VariableGroup([variables[i] for i in idx], [kinds[i] for i in idx], number, is_copy=key[1] is None)
        for number, (key, idx) in enumerate(members.items(), first)
    ]


def is_by_value(variable) -> bool:
    """Whether the constraint of a variable, if any, acts on each value by itself, and so on a part of a vector too."""
    return variable.constraint is None or isinstance(variable.constraint, AtMostOne)


class Slice:
    """The part of a vector that belongs to one variable, with the methods of a Keras variable that a checkpoint uses.

    Args:
        vector: Keras variable [V].
        first: index of the first value.
        shape: of the part.
        path: name in a checkpoint.
    """

    def __init__(self, vector, first: int, shape: tuple[int, ...], path: str):
        self.vector, self.first, self.shape, self.path = vector, first, tuple(shape), path
        self.dtype = vector.dtype

    def numpy(self) -> np.ndarray:
        """The values, in an array of their own."""
        part = self.vector.numpy()[self.first : self.first + int(np.prod(self.shape))]
        return np.array(part).reshape(self.shape)

    def assign(self, values) -> None:
        """Sets the values, and no others of the vector."""
        last = self.first + int(np.prod(self.shape))
        flat = tf.reshape(tf.cast(tf.convert_to_tensor(values), self.dtype), [-1])
        self.vector.value[self.first : last].assign(flat)

    def __array__(self, dtype=None, copy=None):
        return self.numpy() if dtype is None else self.numpy().astype(dtype)


def in_order(variables: Sequence, groups: Sequence[VariableGroup], vectors: Sequence, paths: Sequence) -> list:
    """The parts of vectors, in the order of the variables that they belong to.

    Args:
        variables: all variables of the groups.
        groups: the groups.
        vectors: for each group a Keras variable of the shape of its vector.
        paths: for each group the name of each part in a checkpoint.
    """
    parts = {}
    for group, vector, names in zip(groups, vectors, paths, strict=True):
        if not group.is_copy:
            parts[id(group.variables[0])] = vector
            continue
        first = 0
        for variable, size, name in zip(group.variables, group.sizes, names, strict=True):
            parts[id(variable)] = Slice(vector, first, variable.shape, name)
            first += size
    return [parts[id(v)] for v in variables]


def optimizer_variables(optimizer, groups: Sequence[VariableGroup], variables: Sequence) -> list:
    """The state of an optimizer, as if it had been built over the variables one by one: same names, order and shapes.

    Args:
        optimizer: Keras optimizer, built over the vectors of the groups.
        groups: of `variables`.
        variables: all of them, in order.
    """
    states = optimizer.variables
    long = [i for i, state in enumerate(states) if len(state.shape)]  # the others are counters and rates
    if not long:
        return states
    per_group, by_slot = len(long) // len(groups), []
    for slot in range(per_group):
        of_slot = [states[i] for i in long[slot::per_group]]
        paths = []
        for group, state in zip(groups, of_slot, strict=True):
            kind = state.name.removeprefix(_slug(group.vector))  # such as '_momentum'
            paths.append([f"{state.path.removesuffix(state.name)}{_slug(v)}{kind}" for v in group.variables])
        by_slot.append(in_order(variables, groups, of_slot, paths))
    by_variable = [part for parts in zip(*by_slot, strict=True) for part in parts]
    return [*states[: long[0]], *by_variable, *states[long[-1] + 1 :]]


def _slug(variable) -> str:
    return variable.path.replace("/", "_")

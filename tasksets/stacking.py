"""Stacking: many tasks of equal structure as one, for `vmap`.

    stack([task_0, ..., task_{L-1}]).numbers[leaf] = [L, *shape of leaf]

The data are shared, so a stack of a hundred tasks holds one copy of its data set:

    tasks = tasksets.stack(tasksets.sample(16, suite="small_mlp", ...))
    axes = tasksets.lane_axes(tasks)
    params = jax.vmap(Task.init, in_axes=(axes, 0))(tasks, jax.random.split(key, 16))
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from tasksets.task import Task


def stack(tasks: Sequence[Task]) -> Task:
    """Stacks the numbers of tasks of equal structure along a new axis, the lanes."""
    if not tasks:
        raise ValueError("cannot stack no tasks")
    first = tasks[0]
    for index, task in enumerate(tasks):
        if task.stacked:
            raise ValueError(f"task {index} ({task!r}) is a stack already")
        if structure(task) != structure(first):
            raise ValueError(
                f"cannot stack: task {index} ({task!r}) differs in structure from "
                f"task 0 ({first!r}) or in the shapes of its data.\n"
                f"  {task.problem}\n  {first.problem}\n"
                "tasksets.group_by_structure sorts tasks into lists that stack."
            )
        if not _same_data(task, first):
            raise ValueError(
                f"cannot stack: task {index} ({task!r}) has other data than task 0 "
                f"({first!r}), and lanes share theirs. What differs from task to task "
                "belongs into the numbers."
            )
    numbers = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(task.numbers for task in tasks)
    )
    return Task(first.problem, numbers, first.data)


def lane_axes(task: Task) -> Task:
    """The `vmap` axes of a stacked task: numbers by lane, data shared."""
    return Task(task.problem, numbers=0, data=None)


def group_by_structure(tasks: Sequence[Task]) -> list[list[Task]]:
    """Lists of tasks that stack, in the order in which structures first appear."""
    groups: list[list[Task]] = []
    alike: dict[object, list[list[Task]]] = {}  # by structure
    home: dict[object, list[Task]] = {}
    for task in tasks:
        if stackable(task) not in home:  # its arrays may equal others all the same
            known = alike.setdefault(structure(task), [])
            found = next((g for g in known if _same_data(task, g[0])), None)
            if found is None:
                found = []
                known.append(found)
                groups.append(found)
            home[stackable(task)] = found
        home[stackable(task)].append(task)
    return groups


def stackable(task: Task) -> tuple[object, ...]:
    """What makes tasks stack for sure, while they live: one structure, the same arrays."""
    return structure(task), *(id(leaf) for leaf in jax.tree.leaves(task.data))


def _same_data(one: Task, other: Task) -> bool:
    pairs = zip(jax.tree.leaves(one.data), jax.tree.leaves(other.data), strict=True)
    return all(a is b or bool(jnp.array_equal(a, b)) for a, b in pairs)


def structure(task: Task) -> tuple[object, ...]:
    """What tasks must have in common to share compiled programs; hashable.

    The shapes of the data too: one data set may be carved into splits of other sizes.
    """
    leaves, treedef = jax.tree.flatten((task.numbers, task.data))
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    return task.problem, treedef, shapes

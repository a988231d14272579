"""How meta-training scales to thousands of workers: measured steps, simulated machines.

    python -m benchmarks.scaling_simulation

Measured here, in seconds of one core: a window for groups of many structures (a group
keeps its pace for its whole life, so slow tasks are stragglers), how much windows of one
group differ, what the leader of an elastic run takes per contribution, and how much
staleness costs: the outer loss after training with gradients of n steps ago.

Simulated from that, for 1 to 4,096 workers:

    synchronous     all wait for the slowest, then for an all-reduce; a lost worker stops
                    all, who start again from the last checkpoint
    asynchronous    each sends its contribution to one leader and goes on; the leader takes
                    them one by one and drops those staler than a limit. What was dropped
                    does not count

Efficiency is work done per second over that of workers that wait for nothing.
"""

import dataclasses
import functools
import heapq
import math
import random
import time
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import tyro
from jaxtyping import Float
from rich.console import Console
from rich.table import Table

WORKERS = (1, 4, 16, 64, 256, 1024, 4096)
STEPS = 100  # synchronous steps that are simulated
HORIZON = 100  # mean windows of an asynchronous worker
LIFE = 20  # windows that a group runs

console = Console(width=100)


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Measure, then simulate."""

    groups: int = 24
    """Whose windows are timed."""
    max_megaflops: float = 2.0
    """Tasks whose gradient takes more million operations are left out."""
    meta_parameters: int = 35_799
    """Of what is trained, each 4 bytes in the all-reduce; those of `hierarchical`."""
    bandwidth: float = 1.25e9
    """Of a machine's network in bytes per second; 1.25e9 is 10 Gbit/s."""
    latency: float = 50e-6
    """Of one message, seconds."""
    hours_to_loss: float = 24.0
    """After which a worker is lost, in the mean; spot machines last about so long."""
    call: float = 2e-3
    """Seconds that Ray takes in the leader for one call of an actor; 1.9e-3 of a core were
    measured with one that does nothing."""
    restart: float = 45.0
    """Seconds lost with a worker where all stop: found out, started, and repeated."""
    limits: tuple[int, ...] = (5, 50)
    """Of staleness, in outer steps."""
    seed: int = 0

    def __call__(self) -> None:
        _print(self, _measure(self))


class Measured(NamedTuple):
    """What one core does.

    Attributes:
      seconds: of a window, by group.
      jitter: of windows of one group, each over their group's median.
      serving: seconds that the leader takes for a contribution.
    """

    seconds: Float[np.ndarray, "groups"]
    jitter: Float[np.ndarray, "windows"]
    serving: float


class Simulated(NamedTuple):
    """What workers reach together.

    Attributes:
      efficiency: work that counts, over that of workers who never wait.
      age: mean staleness of the contributions that count, outer steps.
      dropped: share of contributions that were too stale.
      dropped_slow: the same among the slowest tenth of groups.
    """

    efficiency: float
    age: float = 0.0
    dropped: float = 0.0
    dropped_slow: float = 0.0


def all_reduce(scaling: Scaling, workers: int) -> float:
    """Seconds, by whichever is faster: around a ring, or up and down a binary tree."""
    size, rounds = 4 * scaling.meta_parameters, math.ceil(math.log2(workers))
    message = size / scaling.bandwidth
    ring = 2 * (workers - 1) * (scaling.latency + message / workers)
    return min(ring, 2 * rounds * (scaling.latency + message))


def synchronous(
    scaling: Scaling, measured: Measured, workers: int, groups: int, *, losses: bool
) -> Simulated:
    """All wait for the slowest.

    Args:
      scaling: the network, and how long machines last.
      measured: from one core.
      workers: how many there are.
      groups: that each runs, one after the other, in every step.
      losses: whether workers are lost.
    """
    rng = np.random.default_rng(scaling.seed)
    shape = (STEPS, workers, groups)
    seconds = rng.choice(measured.seconds, shape) * rng.choice(measured.jitter, shape)
    busy = seconds.sum(axis=-1)
    step = busy.max(axis=1) + all_reduce(scaling, workers)
    rate = workers / (3600 * scaling.hours_to_loss)
    useful = 1 / (1 + rate * scaling.restart) if losses else 1.0
    return Simulated(useful * float(busy.mean() / step.mean()))


def asynchronous(
    scaling: Scaling, measured: Measured, workers: int, limit: int
) -> Simulated:
    """One leader, nobody waits but for it; a quarter of the workers make a step.

    Args:
      scaling: the network.
      measured: from one core.
      workers: how many there are.
      limit: staleness in outer steps above which contributions are dropped.
    """
    groups = max(1, workers // 4)
    chance = random.Random(scaling.seed)
    paces, jitter = measured.seconds.tolist(), measured.jitter.tolist()
    slow = float(np.quantile(paces, 0.9))
    message = 4 * scaling.meta_parameters / scaling.bandwidth
    # All messages pass the leader's one connection, in both directions at once.
    serving = measured.serving + scaling.call + message
    horizon = HORIZON * float(measured.seconds.mean())
    pace = [0.0] * workers

    def window(worker: int, number: int) -> float:
        if number % LIFE == 0:
            pace[worker] = chance.choice(paces)
        return pace[worker] * chance.choice(jitter)

    # Workers are out of step from the start.
    queue = [(window(w, 0) * chance.random(), w, 0, 0) for w in range(workers)]
    heapq.heapify(queue)
    free, version, waiting = 0.0, 0, 0
    ages, lost, ideal = [], [], 0.0
    while True:
        arrived, worker, number, told = heapq.heappop(queue)
        group = pace[worker]
        free = max(free, arrived + scaling.latency) + serving
        if free > horizon:
            break
        age = version - told
        lost.append((age > limit, group >= slow))
        if age <= limit:
            ages.append(age)
            ideal += group  # the time it took is worth as much as it lasted
            waiting += 1
            if waiting == groups:
                version, waiting = version + 1, 0
        begins = free + scaling.latency + message
        ends = begins + window(worker, number + 1)
        heapq.heappush(queue, (ends, worker, number + 1, version))
    dropped, is_slow = np.array(lost).T
    return Simulated(
        ideal / (workers * horizon),
        float(np.mean(ages)),
        float(dropped.mean()),
        float(dropped[is_slow].mean()) if is_slow.any() else 0.0,
    )


def _measure(scaling: Scaling) -> Measured:
    """Windows of many groups, and a leader whose workers answer at once."""
    import jax
    import optax

    from meta_train import Horizons, TaskMix, TrainConfig, elastic, outer
    from meta_train.engine import Running
    from meta_train.outer import Contribution
    from meta_train.preparation import Preparation, View
    from meta_train.worker import Assignment, Delivery

    config = TrainConfig(
        optimizer="adam",
        mix=TaskMix(
            suites=("digits", "quadratic"), max_megaflops=scaling.max_megaflops
        ),
        horizons=Horizons(window=50, min_horizon=5000, max_horizon=5000),
        groups_in_flight=4,
        tasks_per_group=4,
        num_pairs=64,
    )
    groups = config.groups()
    theta = config.initial_theta()
    view = View(theta, jax.random.key(0), jax.numpy.int32(0), jax.numpy.bool(False))
    preparation = Preparation(
        groups,
        functools.partial(config.estimator_of, mesh=None),
        view,
        None,
        kept_programs=1,
    )
    seconds, jitter = [], []
    for number in range(scaling.groups):
        running = Running(preparation.get(groups.at(number, 0)))
        timed = []
        for _ in range(6):
            began = time.process_time()  # what else this machine does is no straggler
            jax.block_until_ready(running.advance(view, number))
            timed.append(time.process_time() - began)
        seconds.append(float(np.median(timed[1:])))  # the first one warms up
        jitter += [each / seconds[-1] for each in timed[1:]]
    preparation.close()

    class Echo:
        """Workers that answer at once."""

        size = 1

        def submit(self, worker: int, assignment: Assignment) -> None:
            self.told = assignment

        def next(self, timeout: float) -> Delivery:
            return Delivery(0, self.told.version, 0, answer)

    many = {"theta": np.zeros(scaling.meta_parameters, np.float32)}
    one = jax.numpy.float32(1)
    answer = jax.device_get(Contribution(many, {"loss": one}, one, 0 * one))
    optimizer = optax.with_extra_args_support(optax.adam(1e-3))
    state = outer.start_without_lanes(
        jax.tree.map(jax.numpy.asarray, many), optimizer, jax.random.key(0), None
    )
    update, pool = outer.update_function(optimizer), Echo()
    leader = elastic.Leader(pool, update, state, 4, staleness=5)
    for _ in range(40):
        leader.receive(pool.next(0.0))
    began = time.process_time()
    for _ in range(400):
        leader.receive(pool.next(0.0))
    serving = (time.process_time() - began) / 400
    return Measured(np.array(seconds), np.array(jitter), serving)


def cost_of_staleness(delays: Iterable[int], seeds: int = 3) -> dict[int, list[float]]:
    """Outer loss at the end of a short training with gradients of n steps ago, by n.

    The mean over the last half of 200 outer steps at a rate that finds Adam's learning
    rate within some tens of them, and so overshoots where gradients come late.
    """
    import jax
    import optax

    import tasksets
    from learned_opt import Adam
    from meta_train import PES, InnerTraining, Truncation, outer
    from meta_train.stale_gradients import delay_gradients

    system = InnerTraining(
        tasksets.get("small_mlp/seed3@digits?hidden=8&activation=tanh"), Adam()
    )
    pes = PES(
        system, Truncation.constant(100, 10), num_pairs=8, sigma=0.1, loss_cap=2.0
    )
    found: dict[int, list[float]] = {}
    for delay in delays:
        adam = optax.adam(0.1)
        chain = optax.chain(delay_gradients(delay), adam) if delay else adam
        tx = optax.with_extra_args_support(chain)
        step = outer.make_step(tx)
        found[delay] = []
        for seed in range(seeds):
            theta = jax.jit(Adam().init)(jax.random.key(seed))
            state = outer.start((pes,), theta, tx, jax.random.key(seed))
            losses = []
            for _ in range(200):
                state, metrics = step((pes,), state)
                losses.append(float(metrics["loss"]))
            found[delay].append(float(np.mean(losses[100:])))
    return found


def _print(scaling: Scaling, measured: Measured) -> None:
    low, middle, high = np.quantile(measured.seconds, [0.1, 0.5, 0.9])
    console.print(
        f"{len(measured.seconds)} groups: a window takes {1e3 * low:.0f} / "
        f"{1e3 * middle:.0f} / {1e3 * high:.0f} ms (10, 50, 90 %), "
        f"{1e3 * measured.seconds.max():.0f} ms at most, "
        f"{1e3 * measured.seconds.mean():.0f} in the mean; windows of one group vary by "
        f"{100 * measured.jitter.std():.0f} %. The leader takes "
        f"{1e3 * measured.serving:.2f} ms for a contribution."
    )
    table = Table(title="Synchronous: efficiency", title_justify="left")
    heads = ("workers", "all-reduce ms", "1 group each", "8 groups each")
    for head in (*heads, "and workers lost"):
        table.add_column(head, justify="right")
    for workers in WORKERS:
        cells = [
            synchronous(scaling, measured, workers, groups, losses=losses)
            for groups, losses in ((1, False), (8, False), (8, True))
        ]
        table.add_row(
            str(workers),
            f"{1e3 * all_reduce(scaling, workers):.1f}",
            *(f"{100 * cell.efficiency:.0f} %" for cell in cells),
        )
    console.print(table)
    for factor in (1, 20):
        longer = measured._replace(seconds=factor * measured.seconds)
        table = Table(
            title=f"Asynchronous, windows {factor} times as long: efficiency; dropped of all,"
            " and of the slowest tenth",
            title_justify="left",
        )
        table.add_column("workers", justify="right")
        table.add_column("mean age", justify="right")
        for limit in scaling.limits:
            table.add_column(f"at most {limit} steps old", justify="right")
        for workers in WORKERS:
            cells = [asynchronous(scaling, longer, workers, x) for x in scaling.limits]
            table.add_row(
                str(workers),
                f"{cells[-1].age:.1f}",
                *(
                    f"{100 * cell.efficiency:.0f} %; {100 * cell.dropped:.0f} %, "
                    f"{100 * cell.dropped_slow:.0f} %"
                    for cell in cells
                ),
            )
        console.print(table)
    table = Table(title="What staleness costs", title_justify="left")
    table.add_column("gradients of n steps ago", justify="right")
    table.add_column("outer loss at the end, by seed")
    for delay, losses in cost_of_staleness((0, 2, 5, 20)).items():
        table.add_row(str(delay), "  ".join(f"{loss:.3f}" for loss in losses))
    console.print(table)


if __name__ == "__main__":
    tyro.cli(Scaling)()

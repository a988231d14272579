"""Workers that come and go: what the leader takes, what it drops, what it counts."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_runs

import pretrained
from meta_train import Horizons, TaskMix, TrainConfig, elastic, outer, ray_pool, run
from meta_train.outer import Contribution
from meta_train.ray_pool import RayPool
from meta_train.run_log import read_rows
from meta_train.stale_gradients import delay_gradients
from meta_train.worker import Assignment, Delivery, Worker

CONFIG = dataclasses.replace(
    small_runs.CONFIG,
    horizons=Horizons(window=2, min_horizon=2, max_horizon=8),
    outer_steps=12,
)
pytestmark = pytest.mark.usefixtures("one_device")


class Script:
    """A pool of functions in this process, which deliver in a given order."""

    def __init__(
        self, workers: list[Callable[[Assignment], Delivery]], order: Iterable[int]
    ):
        self.size = len(workers)
        self.workers = workers
        self.told: dict[int, Assignment] = {}
        self._order = iter(order)

    def submit(self, worker: int, assignment: Assignment) -> None:
        assert worker not in self.told  # one thing at a time
        self.told[worker] = assignment

    def next(self, timeout: float) -> Delivery | None:
        worker = next(self._order, None)
        if worker is None:
            return None
        return self.workers[worker](self.told.pop(worker))


def descending(worker: int, *, error: float = 0.0) -> Callable[[Assignment], Delivery]:
    """A worker for the loss |theta - 1|^2 / 2, whose gradient may be wrong."""

    def answer(told: Assignment) -> Delivery:
        grad = jax.tree.map(lambda x: x - 1 + np.float32(error), told.theta)
        one, none = np.float32(1), np.float32(0)
        contribution = Contribution(grad, {"loss": one}, one, none)
        return Delivery(worker, told.version, told.rollbacks, contribution, 10)

    return answer


def beginning(worker: int) -> Callable[[Assignment], Delivery]:
    """The same, of a worker that has yet to begin."""
    begun = []

    def answer(told: Assignment) -> Delivery:
        if begun:
            return descending(worker)(told)
        begun.append(worker)
        return Delivery(worker, told.version, told.rollbacks, None)

    return answer


def lead(pool: Script, groups: int = 1, staleness: int = 9, rate: float = 0.3):
    """A leader that descends, and its updates as long as the script goes on."""
    tx = optax.with_extra_args_support(optax.sgd(rate))
    theta = {"x": jnp.array([0.0, 3.0])}
    state = outer.start_without_lanes(theta, tx, jax.random.key(0), None)
    update = outer.update_function(tx, clip=1e9)
    leader = elastic.Leader(pool, update, state, groups, staleness)

    def updates():
        while (delivery := pool.next(0.0)) is not None:
            update = leader.receive(delivery)
            if update is not None:
                yield update.metrics, np.array(leader.state.theta["x"])

    return leader, updates()


def test_workers_that_take_turns_are_an_optimizer_that_sees_old_gradients():
    pool = Script([descending(i) for i in range(3)], [0, 1, 2] * 5)
    _, updates = lead(pool)
    tx = optax.chain(delay_gradients(2), optax.sgd(0.3))
    x = jnp.array([0.0, 3.0])
    state, ages = tx.init(x), []
    for metrics, theta in updates:
        change, state = tx.update(x - 1, state)
        x = x + change
        np.testing.assert_allclose(theta, x, rtol=1e-6)
        ages.append(metrics["staleness"])
    assert ages == [0, 1, *[2] * 13] and metrics["stale"] == 0


def test_contributions_staler_than_the_limit_are_dropped_and_counted():
    slow = descending(1, error=1e6)
    pool = Script([descending(0), slow], [0, 0, 0, 1, 0, 0, 0, 1])
    leader, updates = lead(pool, staleness=2)
    assert [metrics["stale"] for metrics, _ in updates] == [0, 0, 0, 1, 1, 1]
    assert np.all(np.abs(leader.state.theta["x"] - 1) < 2)
    assert pool.told[1].version == leader.state.step  # it goes on with the newest


def test_what_is_as_old_as_the_limit_counts():
    pool = Script([descending(0), descending(1, error=1e6)], [0, 0, 1])
    leader, updates = lead(pool, staleness=2)
    assert [metrics["stale"] for metrics, _ in updates] == [0, 0, 0]
    assert np.all(np.abs(leader.state.theta["x"]) > 1e5)


def test_an_outer_step_averages_as_many_groups_as_the_config_says():
    wrong = [descending(0, error=1.0), descending(1, error=-1.0)]
    pool = Script(wrong, [0, 1, 1, 0, 0])
    _, updates = lead(pool, groups=2, rate=1.0)
    thetas = [theta for _, theta in updates]
    np.testing.assert_allclose(thetas[0], 1.0, rtol=1e-6)  # the errors cancel
    assert len(thetas) == 2


def test_a_lost_worker_is_counted_and_the_others_go_on_meanwhile():
    pool = Script([beginning(0), beginning(1)], [])

    def story():
        yield from [0, 1, 0, 1, 0, 1]
        pool.workers[1] = beginning(1)  # lost, and begun anew with what it was told
        yield from [0, 0, 0, 1, 1, 0]

    pool._order = story()
    _, updates = lead(pool)
    seen = [metrics for metrics, _ in updates]
    assert [metrics["lost_workers"] for metrics in seen] == [0] * 7 + [1] * 2
    assert [metrics["workers"] for metrics in seen] == [2] * 9


def test_a_worker_that_joins_late_gets_the_newest_theta():
    pool = Script([beginning(0), beginning(1)], [0, 0, 0, 0, 0, 1, 1])
    _, updates = lead(pool, staleness=0)
    seen = [metrics for metrics, _ in updates]
    assert [metrics["workers"] for metrics in seen] == [1, 1, 1, 1, 2]
    assert seen[-1]["stale"] == seen[-1]["lost_workers"] == 0


def test_after_a_roll_back_nothing_counts_that_came_from_before():
    def update(state, contributions):
        state = state._replace(step=state.step + 1)
        return state, {"rollbacks": state.step >= 2}

    pool = Script([descending(0), descending(1)], [0, 0, 1, 1])
    state = outer.start_without_lanes(
        {"x": jnp.zeros(2)}, optax.sgd(1.0), jax.random.key(0), None
    )
    leader = elastic.Leader(pool, update, state, 1, staleness=9)
    updates = [leader.receive(pool.next(0.0)) for _ in range(4)]
    assert [bool(update) for update in updates] == [True, True, False, True]
    assert updates[3].metrics["stale"] == 1 and pool.told[1].rollbacks == 1


@pytest.fixture
def worker():
    """Number 2 of `CONFIG`, which has begun."""
    made = Worker(CONFIG, 2, None)
    theta = jax.device_get(CONFIG.initial_theta())
    assert made.run(Assignment(theta, 0, 0)).contribution is None
    yield made, theta
    made.close()


def test_a_worker_runs_one_group_after_the_other_each_for_its_horizon(worker):
    made, theta = worker
    groups, replaced, resets = CONFIG.groups(), [], []
    for version in range(0, 60, 4):  # the clock of others does not matter
        delivery = made.run(Assignment(theta, version, 0))
        replaced.append(delivery.replaced)
        resets.append(delivery.contribution.metrics["resets"])
    assert replaced == [groups.at(2, n).born == n > 0 for n in range(15)]
    assert sum(replaced) >= 3
    assert [bool(reset) for reset in resets] == [True, *replaced[1:]]


def test_a_worker_that_joins_late_begins_in_the_middle_of_a_group():
    long = Horizons(window=2, min_horizon=20, max_horizon=20)
    config = dataclasses.replace(CONFIG, horizons=long)
    made = Worker(config, 0, None)
    theta = jax.device_get(config.initial_theta())
    group = config.groups().at(0, 103)
    assert 1 < group.ends - 103 < 10
    made.run(Assignment(theta, 103, 0))
    deliveries = [made.run(Assignment(theta, 103, 0)) for _ in range(12)]
    made.close()
    first = [delivery.replaced for delivery in deliveries].index(True)
    assert first == group.ends - 103


def test_two_windows_under_one_theta_see_different_noise(worker):
    made, theta = worker
    told = [made.run(Assignment(theta, 3, 0)).contribution for _ in range(3)]
    noise = {float(each.metrics["noise_ratio"]) for each in told}
    assert len(noise) == 3


def test_a_roll_back_begins_all_lanes_anew_once():
    long = Horizons(window=2, min_horizon=40, max_horizon=40)
    made = Worker(dataclasses.replace(CONFIG, horizons=long), 0, None)
    theta = jax.device_get(CONFIG.initial_theta())
    deliveries = [
        made.run(Assignment(theta, version, rollbacks))
        for version, rollbacks in enumerate([0, 0, 0, 1, 1])
    ]
    made.close()
    assert not any(delivery.replaced for delivery in deliveries)
    contributions = [delivery.contribution for delivery in deliveries[1:]]
    assert [float(each.metrics["resets"]) for each in contributions] == [1, 0, 1, 0]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The folder of a run without workers."""
    folder = tmp_path_factory.mktemp("unbroken")
    assert run.train(CONFIG, folder).finished
    return folder


def _alone(steps: int = 10**6, config: TrainConfig = CONFIG) -> Script:
    """One worker, which answers so often."""
    return Script([Worker(config, 0, None).run], [0] * steps)


def test_one_worker_with_one_group_is_the_run_without_workers(unbroken, tmp_path):
    result = elastic.train(CONFIG, tmp_path, _alone())
    assert result.finished
    mine, theirs = run.read_metrics(tmp_path), run.read_metrics(unbroken)
    for name, values in theirs.items():
        np.testing.assert_array_equal(mine[name], values, err_msg=name)
    thetas = [pretrained.load(f / "theta").theta for f in (tmp_path, unbroken)]
    jax.tree.map(np.testing.assert_array_equal, *thetas)
    card = pretrained.load(tmp_path / "theta").card
    assert card.command.endswith("--elastic 1 --staleness 5")


def test_so_it_is_where_horizons_grow(tmp_path):
    growing = Horizons(2, 2, 64, first_max_horizon=2, growth_steps=16)
    config = dataclasses.replace(CONFIG, horizons=growing, outer_steps=24, seed=8)
    run.train(config, tmp_path / "run")
    elastic.train(config, tmp_path / "elastic", _alone(config=config))
    groups = read_rows(tmp_path / "run" / "groups.jsonl")
    assert len({group["windows"] for group in groups}) > 2
    losses = [run.read_metrics(tmp_path / f)["loss"] for f in ("run", "elastic")]
    np.testing.assert_array_equal(*losses)


def test_a_leader_that_was_stopped_goes_on_and_so_does_a_run_without_workers(tmp_path):
    def stop(progress):
        if progress.step in (4, 11):
            os.kill(os.getpid(), signal.SIGTERM)

    for steps in (4, 11):  # when a group is under way
        stopped = elastic.train(
            CONFIG, tmp_path, _alone(), resume=True, on_progress=stop
        )
        assert stopped.reason == "SIGTERM" and stopped.outer_steps == steps
    assert run.train(CONFIG, tmp_path, resume=True).finished
    metrics = run.read_metrics(tmp_path)
    np.testing.assert_array_equal(metrics["step"], np.arange(1, 13))
    assert np.all(np.isfinite(metrics["loss"]))
    np.testing.assert_array_equal(np.isnan(metrics["stale"]), metrics["step"] > 11)


def test_what_a_run_without_workers_logged_and_did_not_keep_is_cut_back(tmp_path):
    def stop(progress):
        if progress.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    steps = run.train(CONFIG, tmp_path, on_progress=stop).outer_steps
    log = tmp_path / "groups.jsonl"
    lost = {"step": steps + 1, "slot": 0}  # a kill came before a checkpoint of it
    log.write_text(f"{log.read_text()}{json.dumps(lost)}\n")
    elastic.train(CONFIG, tmp_path, _alone(), resume=True)
    assert all(row["step"] <= steps for row in read_rows(log))


def test_where_no_worker_is_heard_of_somebody_is_told_and_the_budget_holds(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(elastic, "SILENCE_SECONDS", 0.0)
    monkeypatch.setattr(elastic, "LAST_WORDS_SECONDS", 0.0)
    warnings = []
    result = elastic.train(
        CONFIG, tmp_path, _alone(4), time_budget=5.0, warn=warnings.append
    )
    assert result.reason == "time budget" and result.outer_steps == 3
    assert "no worker was heard of" in warnings[0]
    assert list((tmp_path / "checkpoints").rglob("3.safetensors"))


def test_groups_that_stay_and_negative_staleness_are_errors(tmp_path):
    standing = dataclasses.replace(CONFIG, groups_in_flight=None, tasks_per_group=16)
    with pytest.raises(ValueError, match="--groups-in-flight"):
        Worker(standing, 0, None)
    with pytest.raises(ValueError, match="--groups-in-flight"):
        elastic.train(standing, tmp_path / "new", _alone())
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="at least 0"):
        lead(Script([], []), staleness=-1)


@pytest.mark.parametrize(
    ("size", "sentence"), [({"cpus": 8}, "8 CPU cores"), ({"gpus": 0.5}, "0.5 GPUs")]
)
def test_a_worker_that_fits_nowhere_is_an_error(monkeypatch, size, sentence):
    shut = []
    ray = types.SimpleNamespace(
        init=lambda *args, **options: None,
        cluster_resources=lambda: {"CPU": 2.0},
        shutdown=lambda: shut.append(True),
    )
    monkeypatch.setattr(ray_pool, "_import_ray", lambda: ray)
    with pytest.raises(ValueError, match=sentence):
        RayPool(CONFIG, 1, **size)
    assert shut


_ON_RAY = """
import json, os, signal, sys
from pathlib import Path
from meta_train import TrainConfig, elastic
from meta_train.ray_pool import RayPool
from meta_train.run_log import read_rows

config = TrainConfig.load(Path(sys.argv[1]))
processes, since_lost = [], []

def pin(actor):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[actor._number % len(cores)]})
    return os.getpid()

def disturb(progress):
    if progress.step == 20:
        os.kill(processes[0], signal.SIGKILL)
    since_lost.append(progress.metrics["lost_workers"])
    if sum(since_lost) == 100:
        os.kill(os.getpid(), signal.SIGTERM)

with RayPool(config, 2) as pool:
    call = lambda actor: actor.__ray_call__.remote(pin)
    processes += pool._ray.get([call(actor) for actor in pool.actors])
    result = elastic.train(config, Path(sys.argv[2]), pool, on_progress=disturb)
    processes += pool._ray.get([call(actor) for actor in pool.actors])
print(json.dumps([result.reason, processes]))
"""


@pytest.mark.slow
def test_on_a_real_cluster_a_killed_worker_is_replaced_while_the_other_goes_on(
    tmp_path,
):
    pytest.importorskip("ray")
    alike = "&init_scale=1.0&reparam_scale=1.0&label_noise=0.0&train_fraction=1.0"
    config = TrainConfig(
        optimizer="adam",
        mix=TaskMix(task_options=("hidden=8&activation=tanh" + alike,)),
        horizons=Horizons(window=10, min_horizon=100, max_horizon=100),
        groups_in_flight=2,
        tasks_per_group=2,
        num_pairs=16,
        sigma=0.1,
        outer_learning_rate=0.02,
        outer_steps=5000,
    )
    config.save(tmp_path / "given.json")
    arguments = [str(tmp_path / "given.json"), str(tmp_path / "run")]
    repository = str(Path(__file__).parents[2])
    driver = subprocess.run(
        [sys.executable, "-c", _ON_RAY, *arguments],
        env={**os.environ, "PYTHONPATH": repository, "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert driver.returncode == 0, driver.stderr
    reason, processes = json.loads(driver.stdout.splitlines()[-1])
    assert reason == "SIGTERM"
    assert processes[0] != processes[2] and processes[1] == processes[3]
    metrics = run.read_metrics(tmp_path / "run")
    steps = len(metrics["step"])
    np.testing.assert_array_equal(metrics["step"], np.arange(1, steps + 1))
    assert metrics["workers"][-1] == 2 and metrics["lost_workers"][-1] == 1
    assert steps - 100 > 30  # the other went on before there was a replacement
    assert metrics["staleness"].max() > 0
    assert np.all(np.isfinite(metrics["loss"]))
    assert metrics["loss"][-50:].mean() < 0.8 * metrics["loss"][:20].mean()

"""Workers as Ray actors: it finds places for them, moves theta and restarts who is lost.

Ray is told how many workers there should be. Those for which there is a place begin; the
others wait, and join when a machine does. An actor whose process or machine is gone is
begun anew by Ray, with what it was told last. The extra ``ray`` brings it.
"""

import importlib
import os
from collections import deque
from typing import Any

import jax

from meta_train.config import TrainConfig
from meta_train.devices import (
    lane_mesh,
    program_folder,
    use_all_cores,
    use_compilation_cache,
)
from meta_train.worker import Assignment, Delivery, Worker


class RayPool:
    """A `Pool` on a Ray cluster; a context, which lets go of the cluster.

    Args:
      config: of the run.
      size: workers that there should be, at least 1.
      address: of the cluster, "auto" for the one of this machine; empty starts one that
        is this machine alone.
      cpus: CPU cores of a worker, each of which is a device to it, at least 1.
      gpus: GPUs of a worker; parts of one are allowed.

    Raises:
      ImportError: Ray is not installed; the message says how to get it.
      ConnectionError: there is no cluster at the address.
      ValueError: there is no room even for one worker on this machine.
    """

    def __init__(
        self,
        config: TrainConfig,
        size: int,
        *,
        address: str = "",
        cpus: int = 1,
        gpus: float = 0.0,
    ):
        if size < 1 or cpus < 1:
            raise ValueError("an elastic run needs at least 1 worker with 1 CPU core.")
        self.size = size
        self._ray = ray = _import_ray()
        here: dict[str, Any] = {} if address else {"include_dashboard": False}
        ray.init(
            address or "local", log_to_driver=False, logging_level="warning", **here
        )
        if not address:
            self._require_room(cpus, gpus)
        actor = ray.remote(
            num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=-1
        )(Actor)
        self.actors = [actor.remote(config, number, cpus) for number in range(size)]
        self._running: dict[Any, int] = {}  # by what will be a delivery
        self._arrived: deque[Any] = deque()
        self._sent: tuple[Assignment, Any] | None = None

    def _require_room(self, cpus: int, gpus: float) -> None:
        room = self._ray.cluster_resources()
        wanted = {"CPU": (cpus, "CPU cores"), "GPU": (gpus, "GPUs")}
        for kind, (number, what) in wanted.items():
            if number > (here := room.get(kind, 0)):
                self._ray.shutdown()
                raise ValueError(
                    f"a worker needs {number:g} {what}, and this machine has {here:g}."
                )

    def submit(self, worker: int, assignment: Assignment) -> None:
        """Have a worker run an assignment; one that all are told is sent once."""
        if self._sent is None or self._sent[0] is not assignment:
            self._sent = assignment, self._ray.put(assignment)
        delivery = self.actors[worker].run.remote(self._sent[1])
        self._running[delivery] = worker

    def next(self, timeout: float) -> Delivery | None:
        """The next delivery, None after a time-out; raises what went wrong in a worker."""
        if not self._arrived:
            waiting = list(self._running)
            first, _ = self._ray.wait(waiting, num_returns=1, timeout=timeout)
            if not first:
                return None
            # Many may have arrived at once, and every wait looks at all.
            arrived, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0)
            self._arrived.extend(arrived)
        reference = self._arrived.popleft()
        del self._running[reference]
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None

    def __enter__(self) -> "RayPool":
        return self

    def __exit__(self, *error: object) -> None:
        self._ray.shutdown()


class Actor:
    """A worker in a process of its own, made when it is first needed.

    Args:
      config: of the run.
      number: of the worker.
      cpus: cores that it may use.
    """

    def __init__(self, config: TrainConfig, number: int, cpus: int):
        self._made: Worker | None = None
        self._config, self._number, self._cpus = config, number, cpus

    def run(self, assignment: Assignment) -> Delivery:
        """As `Worker.run`."""
        if self._made is None:
            # XLA starts a thread per core of the machine otherwise, in every worker.
            os.environ["NPROC"] = str(self._cpus)
            jax.config.update("jax_num_cpu_devices", self._cpus)
            use_all_cores()
            use_compilation_cache(program_folder())
            self._made = Worker(self._config, self._number, lane_mesh())
        return self._made.run(assignment)


def _import_ray() -> Any:
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.exceptions")
    except ImportError as error:
        raise ImportError(
            "workers that come and go need Ray: pip install 'learned-opt[ray]'"
        ) from error
    return ray

"""Thousands of optimization tasks by name, to train and to judge optimizers on.

A `Task` is a pytree with `init`, `batch` and `loss`; tasks of equal structure stack, so
that one compiled program serves them all, and their data stay on the device, shared.
The families of TaskSet (Metz et al. 2020, arXiv 2002.11887) are here beside our own.

    import jax, tasksets

    task = tasksets.get("mlp_family/seed7@digits")
    key = jax.random.key(0)
    params, batch = task.init(key), task.batch("train", key)
    loss, grads = jax.value_and_grad(task.loss)(params, batch, key)
"""

from tasksets import bundled as bundled  # registers the data sets that need no download
from tasksets import wrappers as wrappers
from tasksets.checking import Checked as Checked
from tasksets.checking import check as check
from tasksets.cost import Operations as Operations
from tasksets.cost import gradient_operations as gradient_operations
from tasksets.data import DataNotFoundError as DataNotFoundError
from tasksets.data import Dataset as Dataset
from tasksets.data import DatasetInfo as DatasetInfo
from tasksets.data import Split as Split
from tasksets.data import load as load
from tasksets.data import register_data as register_data
from tasksets.excluded import EXCLUDED as EXCLUDED
from tasksets.family import Family as Family
from tasksets.family import FixedTasks as FixedTasks
from tasksets.names import UnknownNameError as UnknownNameError
from tasksets.presence import data_present as data_present
from tasksets.presence import dataset_of as dataset_of
from tasksets.registry import config as config
from tasksets.registry import families as families
from tasksets.registry import filled_in as filled_in
from tasksets.registry import fixed as fixed
from tasksets.registry import get as get
from tasksets.registry import outline as outline
from tasksets.registry import register as register
from tasksets.registry import ships as ships
from tasksets.registry import split_of as split_of
from tasksets.registry import with_options as with_options
from tasksets.stacking import group_by_structure as group_by_structure
from tasksets.stacking import lane_axes as lane_axes
from tasksets.stacking import stack as stack
from tasksets.stacking import stackable as stackable
from tasksets.stacking import structure as structure
from tasksets.suites import names as names
from tasksets.suites import sample as sample
from tasksets.suites import sample_names as sample_names
from tasksets.suites import suites as suites
from tasksets.task import Problem as Problem
from tasksets.task import Task as Task
from tasksets.text import load_text as load_text

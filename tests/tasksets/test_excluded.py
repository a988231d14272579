"""Why tasks are left out of suites, found anew."""

from collections import defaultdict

import jax
import numpy as np
import pytest

import tasksets
from tasksets.excluded import TWIN
from tasksets.families import losg_tasks
from tasksets.fixed import two_d
from tasksets.names import parse

SIZES = {"mnist": 28, "fashion_mnist": 28, "imagenet_resized/16x16": 16}
NOTHING_LEFT = "its convolutions without padding leave no pixels"


@pytest.mark.parametrize("family", ["conv_pooling_family", "conv_fc_family"])
def test_exactly_the_convolutions_that_leave_nothing_are_excluded_as_such(family):
    found = set()
    for seed in range(1200):
        config = tasksets.config(f"{family}/seed{seed}")
        cropped = config.augmentation.crop_amount if config.augmentation else 0
        size = SIZES.get(config.dataset, 32) - cropped
        try:
            config.convs().output_shape((size, size, 3))
        except ValueError:
            found.add(f"{family}/seed{seed}")
    listed = {
        name
        for name, reason in tasksets.EXCLUDED.items()
        if reason == NOTHING_LEFT and name.startswith(f"{family}/")
    }
    # A seed may be excluded for another reason first, but not the other way round.
    assert listed <= found <= set(tasksets.EXCLUDED)


def test_every_seed_that_users_of_the_curves_found_is_excluded():
    vetted = {
        "rnn_text_classification_family": (58, 70, 96),
        "mlp_ae_family": (39, 48, 62),
        "mlp_family": (39, 43, 49, 78),
        "conv_fc_family": (36, 38, 40, 70),
        "conv_pooling_family": (91,),
        "char_rnn_language_model_family": (38, 39),
        "word_rnn_language_model_family": (4, 8, 39),
        "nvp_family": (75,),
    }
    for family, seeds in vetted.items():
        for seed in seeds:
            reason = tasksets.EXCLUDED[f"{family}/seed{seed}"]
            assert reason == "most optimizers diverge before the first evaluation"


def test_the_training_tasks_that_are_the_same_as_a_test_task_are_excluded():
    drawing_nothing = (
        losg_tasks.Surface,
        losg_tasks.Bowl,
        losg_tasks.DependencyChain,
        losg_tasks.MinMaxWell,
    )
    alike = defaultdict(list)
    for name in [f"losg_tasks_family/seed{i}" for i in range(1000)] + [
        *two_d.FIXED.configs
    ]:
        config = tasksets.config(name)
        kind = getattr(config.problem, "base", config.problem)
        if isinstance(kind, drawing_nothing):
            problem, numbers, _ = losg_tasks.build(config)
            leaves, treedef = jax.tree.flatten(numbers)
            values = b"".join(np.asarray(leaf).tobytes() for leaf in leaves)
            alike[problem, treedef, values].append(name)
    twins = set()
    for names in alike.values():
        splits = [tasksets.split_of(name) for name in names]
        if "test" in splits:
            twins |= {n for n, s in zip(names, splits, strict=True) if s == "train"}
    listed = {name for name, reason in tasksets.EXCLUDED.items() if reason == TWIN}
    assert listed == twins and len(twins) == 28


def test_an_excluded_task_is_in_no_suite_and_can_still_be_asked_for():
    for suite in tasksets.suites():
        roots = {parse(name).root for name in tasksets.names(suite)}
        assert not roots & set(tasksets.EXCLUDED)
    assert tasksets.get("mlp_family/seed39@digits").name == "mlp_family/seed39@digits"

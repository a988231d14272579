"""Our samplers against the configs that TaskSet (arXiv 2002.11887) published."""

import json
from pathlib import Path

import jax
import pytest

from tasksets import registry
from tasksets.activations import ACTIVATIONS

PUBLISHED = {
    name: config
    for family in sorted(Path(__file__).with_name("configs").glob("*.json"))
    for name, config in json.loads(family.read_text()).items()
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_seed_gives_the_config_that_taskset_published(name):
    published = PUBLISHED[name]
    ours = json.loads(json.dumps(registry.config(name).as_taskset()))
    assert jax.tree.structure(ours) == jax.tree.structure(published)
    for found, expected in zip(
        jax.tree.leaves(ours), jax.tree.leaves(published), strict=True
    ):
        if isinstance(expected, float):
            # the last bit of exp and log may differ between machines
            expected = pytest.approx(expected, rel=1e-13)
        assert found == expected


def test_the_thousand_configs_use_every_choice_in_proportion():
    configs = [registry.config(f"mlp_family/seed{seed}") for seed in range(1000)]
    activations = [config.activation for config in configs]
    assert set(activations) == set(ACTIVATIONS)
    # 6 of 16, with a standard deviation of 0.015
    assert abs(activations.count("relu") / 1000 - 6 / 16) < 0.06
    assert len({config.dataset for config in configs}) == 10
    assert len({config.initializer for config in configs}) == 9
    assert {len(config.hidden) for config in configs} == {1, 2, 3, 4, 5, 6}
    assert all(16 <= width <= 128 for config in configs for width in config.hidden)

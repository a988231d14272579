"""Meta-training a learned optimizer with and without truncation bias."""

import jax
import numpy as np
import pytest

import learned_opt
from meta_train import system
from meta_train.experiments.learned_optimizer_cifar import LearnedOptimizerCifar

SMALL = LearnedOptimizerCifar(
    optimizer="momentum",  # compiles in no time
    hidden=(4,),
    batch_size=8,
    horizon=20,
    num_steps=15,
    num_particles=4,
    rates=(1e-3,),
    num_episodes=2,
)


def test_the_loss_is_that_of_the_training_minibatch_in_initial_losses():
    rule = learned_opt.ScaleFree()
    training = SMALL.system(rule)
    key = jax.random.key(0)
    state, losses = system.episode(training, rule.init(key), key, 20)
    assert losses[0] == pytest.approx(1, abs=0.2)  # log 10, as of logits near 0
    assert state.params.shape == (64 * 4 + 4 + 4 * 10 + 10,)


@pytest.mark.slow  # a quarter of a minute of compiling
def test_a_short_run_reports_every_estimator_and_baseline(tmp_path):
    report = SMALL.run(tmp_path)
    names = [row["estimator"] for row in report.rows]
    assert names[:5] == ["TBPTT", "truncated ES", "PES", "NRES", "untrained rule"]
    assert names[5].startswith("Adam at ")
    assert len(report.claims) == 4
    assert all(path.exists() for path in report.figures)


def test_the_paper_s_size_has_the_paper_s_rule():
    full = LearnedOptimizerCifar.full()
    rule = learned_opt.get(full.optimizer)()
    assert (
        sum(np.size(x) for x in jax.tree.leaves(rule.init(jax.random.key(0)))) == 1762
    )


@pytest.mark.slow
def test_every_claim_holds(tmp_path):
    report = LearnedOptimizerCifar().run(tmp_path)
    failed = [claim for claim in report.claims if not claim.holds]
    assert not failed

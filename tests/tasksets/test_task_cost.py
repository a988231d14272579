"""The cost of a task's gradient, counted."""

import pytest

import tasksets


def test_a_network_costs_three_products_per_layer_but_the_first():
    task = tasksets.get("small_mlp/seed3@digits?hidden=32&activation=relu")
    # Forwards, and backwards for weights and (not in the first layer) for inputs.
    products = 2 * 64 * (2 * 64 * 32 + 3 * 32 * 10)
    counted = tasksets.gradient_operations(task)
    assert counted.products == products
    assert products < counted.total < 1.3 * products


def test_twice_the_batch_costs_twice_as_much():
    names = (f"small_mlp/seed3@digits?hidden=32&batch_size={n}" for n in (64, 128))
    small, large = (
        tasksets.gradient_operations(tasksets.get(name)).total for name in names
    )
    assert large / small == pytest.approx(2, rel=0.02)


def test_a_recurrent_task_costs_every_step_of_its_sequence():
    name = "char_rnn_language_model_family/seed1@python_docs?patch_length="
    short, long = (
        tasksets.gradient_operations(tasksets.get(name + n)).total for n in ("8", "32")
    )
    assert long / short == pytest.approx(4, rel=0.2)

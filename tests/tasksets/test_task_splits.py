"""No example that a task is validated or tested on is one that it trains on."""

import itertools

import jax
import numpy as np
import pytest

import tasksets
from tasksets import bundled
from tasksets.presence import data_present
from tasksets.task import SPLITS
from tasksets.text import load_text

# TaskSet's sampled families hold out 5000 images, its fixed tasks 3000.
NUM_PER_VALID = (5000, 3000)


def _assert_disjoint(contents: dict[str, list[bytes]]) -> None:
    """Splits have examples, and share none, whatever their labels."""
    assert all(contents[split] for split in SPLITS)
    distinct = {split: set(contents[split]) for split in SPLITS}
    for first, second in itertools.combinations(SPLITS, 2):
        assert not distinct[first] & distinct[second], (first, second)


def _skip_where_absent(name: str) -> None:
    if not data_present(name):
        pytest.skip(f"{name} is not prepared here")


def _images(name: str, num_per_valid: int) -> dict[str, list[bytes]]:
    data = tasksets.load(name, num_per_valid)
    return {
        split: [
            example.tobytes() for example in np.asarray(getattr(data, split).inputs)
        ]
        for split in SPLITS
    }


@pytest.mark.parametrize("num_per_valid", NUM_PER_VALID)
@pytest.mark.parametrize("name", [*bundled.NAMES, "mnist", "fashion_mnist", "cifar10"])
def test_splits_of_a_data_set_share_no_example(name, num_per_valid):
    _skip_where_absent(name)
    contents = _images(name, num_per_valid)
    _assert_disjoint(contents)
    if name not in bundled.NAMES:
        assert len(contents["inner_valid"]) == num_per_valid
        assert len(contents["outer_valid"]) == num_per_valid


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_what_is_not_held_out_is_trained_on(name):
    _skip_where_absent(name)
    every = [set(itertools.chain(*_images(name, n).values())) for n in NUM_PER_VALID]
    assert every[0] == every[1]


@pytest.mark.parametrize("num_per_valid", [None, 50])
@pytest.mark.parametrize("encoding", ["bytes", "subwords8k"])
@pytest.mark.parametrize("corpus", ["python_docs", "tiny_shakespeare"])
def test_splits_of_a_corpus_share_no_document(corpus, encoding, num_per_valid):
    _skip_where_absent(corpus)
    data = load_text(f"{corpus}/{encoding}", num_per_valid)
    tokens = np.asarray(data.tokens)
    contents = {}
    for split in SPLITS:
        part = getattr(data, split)
        places = zip(part.starts.tolist(), part.lengths.tolist(), strict=True)
        contents[split] = [tokens[i : i + length].tobytes() for i, length in places]
    _assert_disjoint(contents)


def test_batches_of_a_split_are_of_that_split():
    fields = "batch_size=512&augmentation=none&center=false"
    task = tasksets.get(f"mlp_family/seed1@digits?{fields}")
    to_stored = lambda inputs: np.round(np.asarray(inputs) * 16).astype(np.uint8)
    stored = _images("digits", NUM_PER_VALID[0])
    for split in SPLITS:
        inputs = to_stored(task.batch(split, jax.random.key(0)).inputs)
        assert {example.tobytes() for example in inputs} <= set(stored[split])

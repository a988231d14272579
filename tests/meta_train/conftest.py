"""What tests of runs have in common."""

import pytest

from meta_train import run


@pytest.fixture(scope="module")
def one_device():
    """Programs for one device compile faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "lane_mesh", lambda: None)
        yield

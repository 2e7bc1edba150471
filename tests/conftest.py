"""Fixtures for all tests."""

from __future__ import annotations

import operator
import os
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import hypothesis
import pytest

# the same examples in every run, and no test that fails by the clock
hypothesis.settings.register_profile("same", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("same")

ROOT = Path(__file__).resolve().parents[1]
# the speed of jobs this small says nothing to the user of this machine
CACHE = tempfile.mkdtemp(prefix="scene_splatter_cache_")
os.environ["SCENE_SPLATTER_CACHE"] = CACHE

# A shell without a terminal starts what stands before "&" with Ctrl-C ignored, and so would all
# that the tests start: what they say of Ctrl-C must not depend on who started them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The Blenders, minutes each, go first: else one core waits for them at the end."""
    items.sort(key=lambda item: item.path.name != "test_blender_versions.py")


def pytest_unconfigure() -> None:
    """Leave nothing in the temporary folder."""
    shutil.rmtree(CACHE, ignore_errors=True)


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """What draws without a generator of its own draws the same numbers in every run."""
    random.seed(0)
    for name, seed in (("numpy", "random.seed"), ("torch", "manual_seed")):
        module = sys.modules.get(name)
        if module is not None:
            operator.attrgetter(seed)(module)(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images, cameras, posed sets and splats, where it lies beside the
    repository.
    """
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("shared data set not found beside the repository")
    return folder

"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("MEDHPC_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images; tests that need it are marked `shared` and skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("no real images here (set MEDHPC_SHARED_DATA)")
    return SHARED

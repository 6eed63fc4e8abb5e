"""Worker processes bring the interpreter's resource tracker, which lives as long as the program: no test's leak."""

from __future__ import annotations

from multiprocessing import resource_tracker

import pytest


@pytest.fixture(scope="session", autouse=True)
def the_tracker_exists_before_the_tests() -> None:
    resource_tracker.ensure_running()

"""Compiling for TPU slices that are not here."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def libtpu():
    """The compiler; without it these tests are skipped."""
    return pytest.importorskip("libtpu", reason="compiling for TPU slices needs libtpu (pip install 'vtjax[plan]')")

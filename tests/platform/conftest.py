"""What several of the platform's tests share."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from recallfront.benchmarks.platform.trials import small_ray
from recallfront.platform import plugins


def pytest_configure() -> None:
    settings.register_profile("busy", deadline=None)  # what runs beside it makes any example late
    settings.load_profile("busy")


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """One Ray of two CPUs for all sweeps of a module: each would start its own, which takes 4 s."""
    with small_ray():
        yield


@pytest.fixture
def no_plugin_stays() -> Iterator[None]:
    """Plug-ins that a test loads are taken out again."""
    before = set(plugins._loaded)
    yield
    plugins.use([])
    for name in set(plugins._loaded) - before:
        plugins._take_out(plugins._loaded[name].plugin)

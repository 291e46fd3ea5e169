"""Fixtures. A test that fails keeps its directory, and says where it is."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("harness")

from harness import BINARY, Instance  # noqa: E402


def pytest_configure() -> None:
    if shutil.which(BINARY) is None:
        raise pytest.UsageError(f"cannot run {BINARY}; set DORMOUSE_BIN to the binary to test")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """Lets fixtures see whether their test has failed."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        item.stash[FAILED] = True


FAILED = pytest.StashKey[bool]()

Make = Callable[..., Instance]


def instances(failed: Callable[[], bool]) -> Iterator[Make]:
    made: list[Instance] = []

    def make(**properties: str) -> Instance:
        root = Path(tempfile.mkdtemp(prefix="dormouse-system-"))
        instance = Instance(root, {key.replace("_", "."): value for key, value in properties.items()})
        made.append(instance)
        return instance

    yield make
    for instance in made:
        for server in instance.servers:
            if server.runs():
                server.kill()
        if failed():
            print(f"kept: {instance.root}; look around with {BINARY} --data {instance.data} jobs list")
        else:
            shutil.rmtree(instance.root)


@pytest.fixture
def make_instance(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes instances; their properties are given as keyword arguments with underscores for dots."""
    yield from instances(lambda: request.node.stash.get(FAILED, False))


@pytest.fixture(scope="module")
def make_module_instance(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes instances that the tests of a module share, and only look at."""
    before = request.session.testsfailed
    yield from instances(lambda: request.session.testsfailed > before)


@pytest.fixture
def instance(make_instance: Make) -> Instance:
    """An instance with the tests' usual properties."""
    return make_instance()

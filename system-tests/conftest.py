"""Fixtures. A test that fails keeps its directory, and says where it is."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("harness", "aws")

from aws import AwsInstance, Services, emulators  # noqa: E402
from harness import BINARY, Instance  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "everywhere: runs on an embedded instance, and on emulators of AWS")
    config.addinivalue_line("markers", "on_aws: runs on emulators of AWS")
    config.addinivalue_line("markers", "slow: left out of scripts/check")
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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests marked `everywhere` run on an embedded instance and on AWS, those marked `on_aws` there alone."""
    places = {"everywhere": ["embedded", "aws"], "on_aws": ["aws"]}
    for mark, where in places.items():
        if metafunc.definition.get_closest_marker(mark):
            metafunc.parametrize("place", where, indirect=True)


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Emulators of AWS that all tests share."""
    with emulators(tmp_path_factory.mktemp("emulators")) as started:
        yield started


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Services | None:
    """Where the test's instances are: on AWS, or in directories."""
    where = getattr(request, "param", "embedded")
    return request.getfixturevalue("services") if where == "aws" else None


def instances(failed: Callable[[], bool], services: Services | None = None) -> Iterator[Make]:
    made: list[Instance] = []

    def make(**properties: str) -> Instance:
        root = Path(tempfile.mkdtemp(prefix="dormouse-system-"))
        values = {key.replace("_", "."): value for key, value in properties.items()}
        instance = AwsInstance(root, services, values) if services else Instance(root, values)
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
def make_instance(request: pytest.FixtureRequest, place: Services | None) -> Iterator[Make]:
    """Makes instances; their properties are given as keyword arguments with underscores for dots."""
    yield from instances(lambda: request.node.stash.get(FAILED, False), place)


@pytest.fixture(scope="module")
def make_module_instance(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes instances that the tests of a module share, and only look at."""
    before = request.session.testsfailed
    yield from instances(lambda: request.session.testsfailed > before)


@pytest.fixture
def instance(make_instance: Make) -> Instance:
    """An instance with the tests' usual properties."""
    return make_instance()

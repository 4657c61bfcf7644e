"""Optuna's own contract suites, held against what hpsearch hands to Optuna."""

import uuid

import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)
from optuna.testing.pytest_storages import StorageTestCase

from hpsearch.search import samplers
from hpsearch.search.storage.storage import open_storage
from tests.integration import studies
from tests.integration.conftest import fresh_database

pytestmark = pytest.mark.usefixtures("one_thread")

# Each of the suite's numerical distributions beside another: 6 of its 36 pairs, since gp needs a
# second or two for each.
NUMERICAL = [
    FloatDistribution(-1.0, 1.0),
    IntDistribution(3, 10),
    FloatDistribution(1e-7, 1.0, log=True),
    IntDistribution(1, 100, log=True),
    FloatDistribution(-10, 10, step=0.5),
    IntDistribution(3, 9, step=2),
]
PAIRS = list(zip(NUMERICAL, NUMERICAL[1:] + NUMERICAL[:1], strict=True))
LATE = 100  # the number of a trial that is past the opening of a study


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def opened(request, tmp_path_factory):
    """A storage for all tests of a kind: to make the tables takes longer than most tests."""
    if request.param == "sqlite":
        url = f"{tmp_path_factory.mktemp('contract')}/study.db"
    else:
        server = request.getfixturevalue("postgres")
        url = fresh_database(server, f"contract_{uuid.uuid4().hex[:8]}")
    storage = open_storage(url, create=True)
    yield storage
    storage.close()


class TestStorage(StorageTestCase):
    """A storage as :func:`open_storage` makes it, with sessions and engine options of ours."""

    @pytest.fixture
    def storage(self, opened):
        yield opened.backend
        for study in opened.studies():
            opened.backend.delete_study(study._study_id)
        opened.sessions.remove()

    def test_pickle_storage(self, opened, storage):
        """A connection to a server belongs to the run that it gives up with, so it stays here."""
        if not opened.is_sqlite:
            pytest.skip("the driver of a server holds the stop signal of this process")
        super().test_pickle_storage(storage)


def made(name, *, objectives):
    """Makes samplers as a study with these objectives does, of a trial past its opening."""
    spec = studies.make_spec(sampler=name, objectives=objectives)
    return lambda: samplers.make_sampler(spec, LATE, cell=None, alone=True)


class TestSampler(BasicSamplerTestCase, RelativeSamplerTestCase):
    """Samplers of ours in studies of one objective."""

    @pytest.fixture(params=["gp", "qmc"])
    def sampler(self, request, monkeypatch):
        monkeypatch.setattr(samplers, "START_UP", 0)  # the suites expect a joint draw at once
        return made(request.param, objectives=("accuracy",))

    @pytest.mark.parametrize(("x_distribution", "y_distribution"), PAIRS)
    def test_sample_relative_numerical(self, sampler, x_distribution, y_distribution):
        super().test_sample_relative_numerical(sampler, x_distribution, y_distribution)


class TestLogCosts(BasicSamplerTestCase):
    """A sampler of Optuna's behind ours, which shows it costs by their logarithms."""

    @pytest.fixture
    def sampler(self):
        return lambda: samplers.LogCostSampler(TPESampler(seed=0), ("params",), {})


class TestCells(BasicSamplerTestCase):
    """A grid's sampler where its cell says nothing."""

    @pytest.fixture
    def sampler(self):
        return made("grid", objectives=("accuracy",))


class TestSeveralObjectives(MultiObjectiveSamplerTestCase):
    """Samplers of ours in studies of two objectives."""

    @pytest.fixture(params=["tpe", "nsga2", "gp", "qmc", "grid"])
    def sampler(self, request):
        return made(request.param, objectives=("accuracy", "params"))

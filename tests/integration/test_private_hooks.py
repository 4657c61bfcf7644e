"""No private hook of Optuna or optuna-dashboard without a canary."""

import pytest

from tests.integration.canaries import ROOT, hooks_in
from tests.integration.test_canaries import GUARDED


def test_every_private_hook_has_a_canary():
    files = sorted(ROOT.glob("hpsearch/**/*.py"))
    found = {
        (hook, str(path.relative_to(ROOT)))
        for path in files
        for hook in hooks_in(path.read_text(encoding="utf-8"))
    }
    assert ("._get_trials", "hpsearch/search/samplers.py") in found
    assert found - GUARDED == set(), "write a canary of each in test_canaries.py"


@pytest.mark.parametrize(
    ("source", "hooks"),
    [
        ("import optuna._x", {"optuna._x"}),
        ("import optuna.storages", set()),
        ("from optuna.a._b import C", {"optuna.a._b.C"}),
        ("from optuna.a import _b as b\nb.C.D", {"optuna.a._b", "optuna.a._b.C"}),
        ("import os\nos._exit(1)", set()),
        ("study._x = trial._y", {"._x", "._y"}),
        ("trial.__dict__", {".__dict__"}),
        ("class A:\n  def _x(self): self._y = self._z", set()),
        (
            "import optuna\nclass A(optuna.samplers.QMCSampler):\n"
            "  def _find_sample_id(self): self._a = self._a + self._b\n  def _c(self): self._c()",
            {"._find_sample_id", "._b"},
        ),
        ("import_('optuna.a._b')", {"optuna.a._b"}),
    ],
)
def test_private_hooks_are_found(source, hooks):
    assert hooks_in(source) == hooks

"""Custom nets and trainings: searched, resumed, rerun and trained for use."""

import dataclasses
import itertools
import json
import logging
import os
import re
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
import torch

import hpsearch
from hpsearch.api.run import RunOptions, submit
from hpsearch.cli.main import main
from hpsearch.core.spec import ModelSpec, TrainSpec
from hpsearch.core.trial import Interrupted, Outcome, State
from hpsearch.errors import HpsearchError, ModelError, SpecError, StudyError
from hpsearch.nn.data.dataset import load
from hpsearch.nn.data.tensors import tensors
from hpsearch.nn.models import build
from hpsearch.nn.training.custom_loop import smoke_test, train
from hpsearch.nn.training.loop import Progress, epochs
from hpsearch.nn.user_code import add_import_path
from hpsearch.search.jobs.confirm import rerun
from hpsearch.search.storage.storage import open_storage
from hpsearch.search.study.catalog import create_or_resume
from hpsearch.search.worker.bounds import extreme_trials
from hpsearch.search.worker.launch import WorkerOptions
from tests.integration.custom_nets import LOOPS, NETS, STUDY, TRAINING

CPU = torch.device("cpu")
_numbers = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def as_it_was(one_thread):
    """Leaves threads, environment and import path as they were."""
    path = list(sys.path)
    yield
    sys.path[:] = path


class Project:
    """A user's folder: a module of nets, one of loops, and study files that name them."""

    def __init__(self, folder, npz):
        number = next(_numbers)  # Python keeps modules by name
        self.folder, self.npz = folder, npz
        self.nets, self.loops = f"own_nets_{number}", f"own_loops_{number}"
        (folder / f"{self.nets}.py").write_text(NETS)
        (folder / f"{self.loops}.py").write_text(LOOPS)
        self.database = str(folder / "own.db")

    def study(self, factory="build", *, module=None):
        path = self.folder / f"{factory}.toml"
        nets = module or self.nets
        path.write_text(STUDY.format(npz=self.npz, nets=nets, factory=factory))
        return path

    def loop(self, function):
        path = self.folder / f"{function}.toml"
        path.write_text(TRAINING.format(npz=self.npz, loops=self.loops, function=function))
        return path

    def run(self, path, **options):
        return hpsearch.run(path, storage=self.database, threads=1, device="cpu", **options)


@pytest.fixture
def project(tmp_path, digits_npz, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return Project(tmp_path, digits_npz)


@pytest.fixture(scope="module")
def searched(tmp_path_factory, digits_npz):
    """A finished study of a custom net, to be read only."""
    project = Project(tmp_path_factory.mktemp("searched"), digits_npz)
    with project.run(project.study()) as study:
        yield project, study


@pytest.fixture(scope="module")
def images(digits):
    pixels, labels = digits
    return tensors(
        pixels[..., None],
        labels,
        np.arange(200),
        np.arange(200, 240),
        mean=(0.3,),
        std=(0.3,),
        classes=10,
        device="cpu",
    )


def test_a_custom_net_is_searched_with_pruning(searched):
    _, study = searched
    states = [record.state for record in study.trials()]

    assert study.ending == "done"
    assert len(states) == 12
    assert set(states) == {State.COMPLETE, State.PRUNED}
    for record in study.trials():
        depth, hidden = record.params["depth"], record.params["hidden"]
        params = 65 * hidden + (depth - 1) * (hidden + 1) * hidden + (hidden + 1) * 10
        assert record.cost["params"] == params
        assert "n_blocks" not in record.params
    assert study.summary().hypervolume > 0


@pytest.mark.parametrize("kind", ["html", "md", "json"])
def test_the_report_shows_custom_dimensions(searched, tmp_path, kind):
    project, study = searched
    knee = study.knee()
    net = f"depth {knee.params['depth']}, hidden {knee.params['hidden']}"

    told = study.report(tmp_path / "report", kind=kind).read_text()

    assert f"{project.nets}:build" in told
    assert "0 blocks" not in told
    if kind == "json":
        assert json.loads(told)["depth"]["groups"] == []
    else:
        assert net in told


def test_two_processes_go_on_with_it_and_find_the_module_beside_the_study_file(project):
    path = project.study()
    project.run(path, trials=2).close()

    with project.run(path, trials=6, workers=2) as study:
        origins = [record.attributes["origin"]["process"]["pid"] for record in study.trials()]

        assert [record.state.counts for record in study.trials()] == [True] * 6
        assert len(set(origins[2:]) - {origins[0]}) >= 1
        assert study.trials()[0].params["depth"] in (1, 2, 3)


def test_another_factory_is_another_study(searched):
    project, _ = searched

    with pytest.raises(StudyError, match=r"model.factory was '.*:build', now '.*:other'"):
        project.run(project.study("other"))


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("absent", "found no 'absent' in it"),
        ("constant", "is of type int, expected a function"),
        ("number", "returned int, expected a torch.nn.Module"),
        ("frozen", "without a trainable parameter"),
        ("misfit", "mat1 and mat2 shapes cannot be multiplied"),
        ("short", "returned 2×3 for 2 images of 10 classes, expected logits of 2×10"),
        ("viewing", "ValueError: no such layer"),
    ],
)
def test_a_bad_factory_is_one_line_and_no_study_is_made(project, factory, message):
    with pytest.raises(SpecError, match=message) as caught:
        project.run(project.study(factory))

    assert f"{project.nets}:{factory}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (project.folder / "own.db").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "ModuleNotFoundError: No module named 'bad_.*'; install it, run from its folder"),
        ("def build(:", "cannot be imported: SyntaxError"),
        ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(1)", "cannot be imported: SystemExit: 1"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(project, text, message):
    module = f"bad_{next(_numbers)}"
    if text is not None:
        (project.folder / f"{module}.py").write_text(text)

    with pytest.raises(SpecError, match=message):
        project.run(project.study(module=module))
    assert not (project.folder / "own.db").exists()


CHECKED = """
def build(params, input_shape, classes): ...
def variable(*everything): ...
def short(params, input_shape): ...
def long(params, input_shape, classes, extra): ...
def named(params, input_shape, *, classes): ...
class Net:
    def __init__(self, params, input_shape, classes): ...
constant = 3
def train(model, data, spec, *, params, device, stop, progress): ...
def loose(model, data, spec, **rest): ...
def stopless(model, data, spec, *, params, device, progress): ...
"""


class TestCheck:
    """`hpsearch check` examines custom code, and writes nothing."""

    @pytest.fixture
    def check(self, project, capsys):
        module = f"checked_{next(_numbers)}"
        (project.folder / f"{module}.py").write_text(CHECKED)

        def call(name, *, loop=False, module=module):
            text = TRAINING if loop else STUDY
            path = project.folder / "checked.toml"
            named = {"loops": module, "function": name, "nets": module, "factory": name}
            path.write_text(text.format(npz=project.npz, **named))
            before = sorted(project.folder.rglob("*"))
            with pytest.raises(SystemExit) as exit_:
                main(["check", str(path)])
            assert sorted(project.folder.rglob("*")) == before
            out, err = capsys.readouterr()
            assert (exit_.value.code == 0) == (err == "")
            assert err == "" or (exit_.value.code == 2 and len(err.splitlines()) == 1 and not out)
            return err

        return call

    @pytest.mark.parametrize("name", ["build", "variable", "Net"])
    def test_a_factory_that_accepts_the_arguments_passes(self, check, name):
        assert check(name) == ""

    @pytest.mark.parametrize("name", ["train", "loose"])
    def test_a_training_that_accepts_the_arguments_passes(self, check, name):
        assert check(name, loop=True) == ""

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("short", "takes (params, input_shape), but is called with (params, input_shape, cla"),
            ("short", "too many positional arguments; change it to accept"),
            ("long", "missing a required argument: 'extra'; change it to accept"),
            ("named", "takes (params, input_shape, *, classes), but"),
            ("constant", "is of type int, expected a function"),
            ("absent", "found no 'absent' in it; define it or correct the name"),
        ],
    )
    def test_a_factory_of_another_signature_is_one_line(self, check, name, words):
        told = check(name)

        assert told.startswith("hpsearch: model.factory: 'checked_")
        assert words in told

    def test_a_training_without_an_argument_is_refused(self, check):
        told = check("stopless", loop=True)

        assert "called with (model, data, spec, params=…, device=…, stop=…, progress=…)" in told
        assert "got an unexpected keyword argument 'stop'" in told

    def test_a_missing_module_is_refused(self, check):
        assert "No module named 'nowhere_x'; install it, run from" in check("f", module="nowhere_x")

    def test_a_built_in_net_needs_no_torch(self, tmp_path):
        code = "import sys; from hpsearch.cli.main import main\ntry: main(['check'])\n"
        code += "except SystemExit as end: sys.exit(end.code or 9 * ('torch' in sys.modules))"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_a_trial_comes_out_the_same_again(searched):
    project, study = searched
    number = study.knee().number

    again = rerun(
        study.study,
        number,
        WorkerOptions(
            storage=project.database,
            device="cpu",
            threads=1,
            code=project.folder,
            allow_code=True,
        ),
        dataset=None,
        on_epoch=lambda before, now: None,
    )

    assert again.is_equal


@pytest.fixture(scope="module")
def taken(searched):
    project, study = searched
    return hpsearch.train(
        project.folder / "model",
        knee=True,
        settings={"hidden": 40},
        study=study.name,
        storage=project.database,
        device="cpu",
        threads=1,
        allow_code=True,
    )


COMMANDS = {
    "train": ("train", "--knee", "-o", "refused"),
    "confirm": ("confirm", "--seeds", "1"),
    "rerun": ("rerun", "0"),
    "worker": ("worker", "--study", "own"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_code_that_a_database_names_is_neither_imported_nor_run_unasked(
    searched, command, tmp_path, monkeypatch, capsys
):
    """Everyone who can write to the database can choose the name."""
    project, _ = searched
    monkeypatch.chdir(project.folder)
    monkeypatch.delenv("HPSEARCH_CODE", raising=False)
    database = project.database
    if command == "worker":
        database = str(tmp_path / "queued.db")
        submit(project.study(), RunOptions(storage=database))
    monkeypatch.delitem(sys.modules, project.nets, raising=False)

    with pytest.raises(SystemExit, match="2"):
        main([*COMMANDS[command], "--storage", database, "--device", "cpu"])
    said = capsys.readouterr().err

    assert len(said.splitlines()) == 1
    assert f"model.factory '{project.nets}:build'" in said
    assert "pass --allow-code (in Python: allow_code=True) or set HPSEARCH_CODE" in said
    assert project.nets not in sys.modules
    assert not (project.folder / "refused").exists()


def test_code_is_not_run_from_python_unasked_either(searched, tmp_path, monkeypatch):
    project, study = searched
    monkeypatch.delitem(sys.modules, project.nets, raising=False)
    options = {"study": study.name, "storage": project.database, "device": "cpu"}

    with pytest.raises(SpecError, match="not allowed by default"):
        hpsearch.train(tmp_path / "model", knee=True, **options)
    with pytest.raises(SpecError, match="not allowed by default"):
        hpsearch.confirm(**options)

    assert project.nets not in sys.modules


def test_the_folder_of_code_in_the_environment_allows_it(searched, monkeypatch, capsys):
    project, study = searched
    monkeypatch.setenv("HPSEARCH_CODE", str(project.folder))

    with suppress(SystemExit):
        where = ("--storage", project.database, "--study", study.name, "--device", "cpu")
        main(["rerun", "0", "--threads", "1", *where])

    assert "identical" in capsys.readouterr().err


def test_a_model_is_loaded_only_where_its_code_is_named(searched, taken, monkeypatch):
    project, study = searched
    name = f"{project.nets}:build"
    plain = json.loads((taken.folder / "config.json").read_text())
    monkeypatch.chdir(project.folder)
    module = sys.modules.pop(project.nets)

    with pytest.raises(ModelError, match=f"code that loading does not run.*--factory {name}"):
        hpsearch.load_model(taken.folder, device="cpu")
    told = f"built by '{name}', expected factory 'nets:build'; pass --factory {name} "
    with pytest.raises(ModelError, match=told):
        hpsearch.load_model(taken.folder, device="cpu", factory="nets:build")
    assert project.nets not in sys.modules
    by_name = hpsearch.load_model(taken.folder, device="cpu", factory=name)
    by_hand = hpsearch.load_model(taken.folder, device="cpu", factory=module.build)
    with pytest.raises(ModelError, match=r"found .*10, 40.* for '2\.weight'|found nothing for"):
        hpsearch.load_model(
            taken.folder, device="cpu", factory=lambda p, s, c: torch.nn.Linear(2, 2)
        )

    depth = study.knee().params["depth"]
    assert plain["model"] == {"factory": name, "params": {"depth": depth, "hidden": 40}}
    for loaded in (by_name, by_hand):
        told = loaded.predict(taken.taken.images)
        np.testing.assert_array_equal(told.indices, taken.taken.predicted)
    assert f"--factory {name}" in (taken.folder / "README.md").read_text()


def test_predict_needs_the_option_that_allows_the_code(searched, taken, monkeypatch, capsys):
    project, _ = searched
    monkeypatch.chdir(project.folder)
    command = ["predict", "model", str(project.npz), "--json", "--device", "cpu", "--threads", "1"]

    with pytest.raises(SystemExit, match="2"):
        main(command)
    refused = capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--factory", f"{project.nets}:build"])
    done = capsys.readouterr()

    assert len(refused.err.splitlines()) == 1
    assert "if you trust it, allow it with --factory" in refused.err
    assert len(json.loads(done.out)) == 240


def test_a_factory_cannot_be_named_for_a_built_in_net(tmp_path, digits_npz):
    settings = {"n_blocks": 1, "base_width": 4}
    options = {"epochs": 1, "device": "cpu", "threads": 1, "dataset": str(digits_npz)}
    hpsearch.train(tmp_path / "model", settings=settings, **options)

    with pytest.raises(ModelError, match="found a built-in model, expected factory 'a:b'; omit it"):
        hpsearch.load_model(tmp_path / "model", factory="a:b")


def test_without_a_choice_there_is_no_recipe_for_a_custom_net(searched, tmp_path):
    project, study = searched

    with pytest.raises(SpecError, match="has no default recipe; select one with --trial N"):
        hpsearch.train(
            tmp_path / "model",
            settings={"depth": 2},
            study=study.name,
            storage=project.database,
        )


def test_a_net_that_no_onnx_file_can_hold_is_kept_without_one(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    project.run(project.study("branching"), trials=1, pruner="none").close()
    folder = project.folder / "model"

    with pytest.raises(ModelError, match="was not written, the rest of the model folder was"):
        hpsearch.train(
            folder,
            knee=True,
            storage=project.database,
            device="cpu",
            threads=1,
            onnx=True,
            allow_code=True,
        )

    name = f"{project.nets}:branching"
    loaded = hpsearch.load_model(folder, device="cpu", factory=name)
    assert loaded.net.again is loaded.net.weight or loaded.net.again.equal(loaded.net.weight)
    assert not (folder / "model.onnx").exists()


def line_of(text, words):
    return next(n for n, line in enumerate(text.splitlines(), start=1) if words in line)


class TestLateFailure:
    """Code that passes the rehearsal and fails in a training afterwards is an error of one line."""

    @pytest.fixture
    def failing_command(self, project, capsys, monkeypatch):
        """Runs the command on a study whose one trial looks complete; returns stderr's lines."""

        def call(path, *, verbose=False, seeds=1, command="train"):
            monkeypatch.chdir(project.folder)
            spec = hpsearch.load_study_file(path)
            study = create_or_resume(
                open_storage(project.database, create=True),
                spec,
                data=load(spec.data, data_dir=None, seed=spec.search.seed).fingerprint,
                reference={"device": "cpu", "processor": "any", "threads": 1},
                bounds=lambda: {"accuracy": (0.1, 1.0), "params": (1.0, 1e6)},
            )
            lease = study.acquire({"process": {"host": "here", "pid": 1}})
            values = {"accuracy": 0.5, "params": 100.0}
            lease.finish(Outcome(state=State.COMPLETE, values=values))
            study.storage.close()
            before = sorted(project.folder.iterdir())
            where = ["--storage", project.database, "--device", "cpu", "--threads", "1"]
            how = ["--seeds", str(seeds), "--allow-code", *where]
            how += ["--knee", "-o", "model"] if command == "train" else ["--mixed-hardware"]
            with pytest.raises(SystemExit, match="2"):
                main([*(["--verbose"] if verbose else []), command, *how])
            out, err = capsys.readouterr()
            assert out == ""
            made = {path.name for path in set(project.folder.iterdir()) - set(before)}
            assert made <= {"__pycache__", "own.db-wal", "own.db-shm"}
            return err.splitlines()

        return call

    @pytest.mark.parametrize("command", ["train", "confirm"])
    def test_of_a_training(self, project, failing_command, command):
        said = failing_command(project.loop("tiring"), command=command)[-1]

        line = line_of(LOOPS, "no more")
        assert said == (
            f"hpsearch: train.function: '{project.loops}:tiring' fails on this study:"
            f" RuntimeError: no more after 2 ({project.loops}.py, line {line})"
        )

    def test_of_a_factory(self, project, failing_command):
        said = failing_command(project.study("third"), seeds=2)[-1]

        line = line_of(NETS, "calls[9]")
        assert said == (
            f"hpsearch: model.factory: '{project.nets}:third' fails on this study:"
            f" IndexError: list index out of range ({project.nets}.py, line {line})"
        )

    def test_of_a_net_at_its_test(self, project, failing_command):
        said = failing_command(project.study("forgets"))[-1]

        line = line_of(NETS, "it again?")
        assert said.startswith(f"hpsearch: model.factory: '{project.nets}:forgets' fails on this")
        assert said.endswith(f"ValueError: what was it again? ({project.nets}.py, line {line})")

    def test_the_whole_traceback_comes_with_verbose(self, project, failing_command, monkeypatch):
        monkeypatch.setattr(logging.getLogger("hpsearch"), "level", logging.INFO)

        said = failing_command(project.loop("tiring"), verbose=True)

        assert "Traceback (most recent call last):" in said
        assert any("in check" in line and f"{project.loops}.py" in line for line in said)
        assert said[-1].startswith("hpsearch: train.function: ")


class TestFailureInside:
    """Code that works only at the ends of the space fails its trials, with the line as reason."""

    def failed(self, project, path):
        """Returns the ending of the run, and the first trial that failed."""
        with pytest.raises(StudyError, match=r"trials failed in a row") as caught:
            project.run(path, trials=8, sampler="random")
        with hpsearch.open_study(storage=project.database) as study:
            return str(caught.value), next(r for r in study.trials() if r.state is State.FAILED)

    def test_a_factory(self, project, capsys, monkeypatch):
        ended, trial = self.failed(project, project.study("inside"))

        line = line_of(NETS, 'params["hiden"]')
        reason = f"bug: {project.nets}:inside: KeyError: 'hiden' ({project.nets}.py, line {line})"
        assert trial.reason == reason
        assert trial.attributes["failure"]["kind"] == "bug"
        assert f"with {reason}; see `hpsearch show " in ended
        assert re.search(r"`hpsearch show \d+ --study \w+` for where, fix it and run", ended)
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit, match="0"):
            main(["show", str(trial.number), "--storage", project.database])
        assert f"failed: {reason}" in capsys.readouterr().out

    def test_what_a_factory_returned(self, project):
        _, trial = self.failed(project, project.study("hollow"))

        told = "TypeError: returned int, expected a torch.nn.Module"
        assert trial.reason == f"bug: {project.nets}:hollow: {told}"

    def test_a_training(self, project):
        _, trial = self.failed(project, project.loop("tiring"))

        where = f"({project.loops}.py, line {line_of(LOOPS, 'no more')})"
        assert trial.reason == f"bug: {project.loops}:tiring: RuntimeError: no more {where}"

    def test_a_training_that_ends_the_process(self, project):
        """The worker would be gone, with a code that says that all is done."""
        _, trial = self.failed(project, project.loop("quitting"))

        where = f"({project.loops}.py, line {line_of(LOOPS, 'SystemExit')})"
        assert trial.reason == f"bug: {project.loops}:quitting: SystemExit: 0 {where}"

    def test_a_rehearsal_that_ends_the_process(self, project):
        path = project.loop("quitting")
        path.write_text(path.read_text().replace("[train]", "[train]\nlabel_smoothing = 0.45"))
        with pytest.raises(SpecError, match=r"quitting' fails on this study: SystemExit: 0 \("):
            project.run(path, trials=1)

    def test_a_training_whose_costs_are_measured(self, project):
        """On more images than in the rehearsal; nothing is written."""
        with pytest.raises(SpecError, match=r"greedy' fails on this study: RuntimeError: too many"):
            project.run(project.loop("greedy"), trials=1)
        assert not os.path.exists(project.database)


# -- custom training


def spec_of(project, function, **changes):
    add_import_path(project.folder)
    plain = {"epochs": 3, "batch_size": 20, "optimizer": "adam", "learning_rate": 0.01, "seed": 5}
    name = function and f"{project.loops}:{function}"
    return TrainSpec(**{**plain, "function": name, "params": {"rate": 0.05}, **changes})


def curve(images, spec, **options):
    net = build(ModelSpec(widths=(4,), dropout=0.3), (1, 8, 8), 10, seed=1)
    return list(train(net, images, spec, device=CPU, **options))


def measured(curve):
    return [(e.epoch, e.train_loss, e.val_loss, e.val_accuracy) for e in curve]


def test_a_wrapped_training_is_the_built_in_one(project, images):
    own, plain = spec_of(project, "wrapped"), spec_of(project, None)
    net = build(ModelSpec(widths=(4,), dropout=0.3), (1, 8, 8), 10, seed=1)

    assert measured(curve(images, own)) == measured(epochs(net, images, plain, device=CPU))


def test_a_custom_training_is_reproducible_and_resumes_from_its_progress(project, images):
    spec = spec_of(project, "train")
    whole = measured(curve(images, spec))
    progress = Progress()
    net = build(ModelSpec(widths=(4,), dropout=0.3), (1, 8, 8), 10, seed=1)
    begun = train(net, images, spec, device=CPU, progress=progress)
    first = measured([next(begun)])
    begun.close()

    rest = measured(train(net, images, spec, device=CPU, progress=progress))

    assert measured(curve(images, spec)) == whole
    assert first + rest == whole


def test_a_custom_training_ends_when_asked(project, images):
    with pytest.raises(Interrupted):
        curve(images, spec_of(project, "train"), stop=lambda: True)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", "returned NoneType, expected an iterator of hpsearch.Epoch"),
        ("early", "ended before epoch 1 of 1"),
        ("dicts", "yielded dict, expected hpsearch.Epoch"),
        ("miscounting", "yielded epoch 7, expected epoch 1"),
        ("breaking", "RuntimeError: out of paper"),
        ("absent", "found no 'absent' in it"),
    ],
)
def test_a_bad_training_is_one_line_and_no_study_is_made(project, function, message):
    with pytest.raises(SpecError, match=message) as caught:
        project.run(project.loop(function))

    assert f"train.function: '{project.loops}:{function}'" in str(caught.value)
    assert not (project.folder / "own.db").exists()


def test_a_custom_training_is_searched_and_trained_for_use(project):
    with project.run(project.loop("train")) as study:
        records = study.trials()
        best = max(study.front(), key=lambda record: record.values["accuracy"])

    assert all(record.state.counts for record in records)
    assert all("optimizer" not in record.params for record in records)
    assert len({record.params["rate"] for record in records}) == 6
    trained = hpsearch.train(
        project.folder / "model",
        trial=best.number,
        storage=project.database,
        device="cpu",
        threads=1,
        hold_out_validation=True,
        allow_code=True,
    )
    assert trained.metrics["epochs"] == 3
    assert hpsearch.load_model(trained.folder, device="cpu").predict(trained.taken.images).classes
    in_markdown = project.loops.replace("_", r"\_")
    assert f"{in_markdown}:train (" in (trained.folder / "README.md").read_text()


def test_a_training_without_progress_is_handed_back_at_ctrl_c_and_starts_over(project):
    path = project.loop("forgetful")

    with pytest.raises(KeyboardInterrupt):
        project.run(path, trials=1)
    with hpsearch.open_study(storage=project.database) as study:
        (left,) = study.trials()
    with project.run(path, trials=1) as study:
        (done,) = study.trials()

    assert (left.state, len(left.curve)) == (State.WAITING, 2)
    assert (done.state, len(done.curve)) == (State.COMPLETE, 3)
    assert done.params == left.params
    assert [entry["ended"] for entry in done.attributes["history"]] == ["handed back"]


def test_the_batch_is_rehearsed_on_few_images(project, images):
    """However many there are, one batch of them is enough to see whether the code works."""
    add_import_path(project.folder)
    (project.folder / f"{project.nets}_counting.py").write_text(
        "from torch import nn\n"
        "seen = []\n"
        "class Net(nn.Linear):\n"
        "    def forward(self, x):\n"
        "        seen.append(len(x))\n"
        "        return super().forward(x.flatten(1))\n"
        "def build(params, input_shape, classes):\n"
        "    return Net(64, classes)\n"
    )
    spec = hpsearch.build_spec({"model": {"factory": f"{project.nets}_counting:build"}})
    cheap, _ = extreme_trials(spec)
    trial = dataclasses.replace(cheap, train=dataclasses.replace(cheap.train, batch_size=50))

    smoke_test(trial, images, device=CPU)

    assert sum(sys.modules[f"{project.nets}_counting"].seen) == 2 + 50 + 1


def test_every_failure_is_an_hpsearch_error(project):
    with pytest.raises(HpsearchError):
        project.run(project.folder / "nowhere.toml")

"""Studies on real databases: the budget, the draws, hand-backs, changes; SQLite and PostgreSQL."""

import math
import multiprocessing
import time
import warnings
from dataclasses import replace
from datetime import datetime

import optuna
import pytest
from sqlalchemy import event

from hpsearch.core.dimensions import ChoiceDim, IntDim
from hpsearch.core.spec import SAMPLERS, RecipeSpec, to_json
from hpsearch.core.trial import Outcome, State, end_order
from hpsearch.errors import SpecError, StudyError
from hpsearch.search.samplers import make_sampler
from hpsearch.search.storage import tables
from hpsearch.search.storage.records import CHANGES, CREATED, SPEC, StudyStatus
from hpsearch.search.storage.storage import open_storage
from hpsearch.search.study.catalog import create_or_resume, delete, open_study, study_names, submit
from hpsearch.search.study.leases import Lease, process_identity, process_is_gone
from hpsearch.search.worker.launch import _check_grid
from hpsearch.util.messages import messages_to
from tests.integration.studies import (
    EPOCHS,
    WIDTHS,
    curve_of,
    make_spec,
    make_study,
    origin,
    search,
    simulate,
    work_in_process,
)

FAILED = Outcome(state=State.FAILED, reason="bug: boom")


def states(study):
    return [record.state for record in study.records()]


def drawn(study):
    return [tuple(sorted(record.params.items())) for record in study.records()]


class TestBudget:
    def test_a_search_ends_with_exactly_its_trials_and_resumes_to_a_larger_total(self, storage):
        study = make_study(storage, make_spec(trials=12))
        assert search(study) is StudyStatus.DONE
        assert sum(state.counts for state in states(study)) == 12
        larger = make_study(storage, make_spec(trials=15))
        assert search(larger) is StudyStatus.DONE
        assert len(larger.records()) == 15

    def test_a_failed_trial_is_refunded(self, storage):
        """Keeps the promise "It does not count towards the budget" of docs/workers.md."""
        study = make_study(storage, make_spec(trials=3))
        study.acquire(origin()).finish(FAILED)
        assert search(study) is StudyStatus.DONE
        assert [s.value for s in states(study)].count("failed") == 1
        assert sum(state.counts for state in states(study)) == 3

    def test_failures_in_a_row_stop_the_study_but_not_the_next_run_of_it(self, storage):
        study = make_study(storage, make_spec(max_failures=3))
        for _ in range(3):
            study.acquire(origin()).finish(FAILED)
        assert study.acquire(origin()) is StudyStatus.FAILING
        time.sleep(0.01)
        again = make_study(storage, make_spec(max_failures=3))
        assert isinstance(again.acquire(origin()), Lease)

    def test_failures_in_a_row_are_counted_whatever_the_clock_says(self, storage, monkeypatch):
        study = make_study(storage, make_spec(max_failures=3, pruner="none"))
        assert study.failures() == []
        ahead = datetime(2099, 1, 1)
        with monkeypatch.context() as patch:
            patch.setattr(tables, "_time", lambda session: ahead)
            lease = study.acquire(origin())
            done = lease.finish(simulate(study, lease))
        assert done.ended.year > 2090
        ended = [study.acquire(origin()).finish(FAILED) for _ in range(3)]
        assert [record.number for record in study.failures()] == [1, 2, 3]
        assert study.acquire(origin()) is StudyStatus.FAILING
        in_order = sorted(study.records(), key=end_order)
        assert [record.number for record in in_order] == [0, 1, 2, 3]
        befores = [
            (r.attributes["before"]["counted"], r.attributes["before"]["failed"]) for r in ended
        ]
        assert befores == [(1, 0), (1, 1), (1, 2)]

    def test_a_success_of_another_worker_ends_a_row_of_failures_though_it_started_first(
        self, storage
    ):
        study = make_study(storage, make_spec(max_failures=3, pruner="none"))
        assert study.failures() == []
        slow = study.acquire(origin())
        for _ in range(2):
            study.acquire(origin()).finish(FAILED)
        slow.finish(simulate(study, slow))
        study.acquire(origin()).finish(FAILED)
        assert [record.number for record in study.failures()] == [3]

    def test_a_worker_waits_while_others_run_the_last_trials(self, storage):
        study = make_study(storage, make_spec(trials=1))
        lease = study.acquire(origin())
        assert study.acquire(origin()) is StudyStatus.BUSY
        lease.finish(simulate(study, lease))
        assert study.acquire(origin()) is StudyStatus.DONE

    def test_a_stop_request_ends_the_search_until_it_is_run_again(self, storage):
        study = make_study(storage)
        study.request_stop()
        assert study.acquire(origin()) is StudyStatus.STOPPED
        assert isinstance(make_study(storage).acquire(origin()), Lease)

    def test_a_waiting_trial_may_be_taken_during_a_count_without_the_lock(self, storage):
        study = make_study(storage)
        study.acquire(origin()).hand_back()
        other = open_study(open_storage(storage.url.render_as_string(False), create=False))
        taken = []

        @event.listens_for(storage.engine, "after_cursor_execute")
        def take(_connection, _cursor, statement, *_):
            if "GROUP BY trials.study_id" in statement and not taken:
                taken.append(other.acquire(origin()))

        assert study.tally()[State.WAITING] == 1
        assert taken[0].number == 0
        assert study.tally()[State.WAITING] == 0
        other.storage.close()

    def test_four_processes_one_of_them_killed_share_the_budget_exactly(self, storage, tmp_path):
        study = make_study(storage, make_spec(trials=24))
        url = storage.url.render_as_string(hide_password=False)
        spawn = multiprocessing.get_context("spawn")
        arguments = (url, "s", str(tmp_path / "go"))
        workers = [spawn.Process(target=work_in_process, args=arguments) for _ in range(4)]
        for worker in workers:
            worker.start()
        deadline = time.monotonic() + 600
        while _running_on(study) != {worker.pid for worker in workers}:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        workers[0].kill()
        (tmp_path / "go").touch()
        for worker in workers:
            worker.join(600)
        assert sum(state.counts for state in states(study)) == 24
        assert len(study.records()) == 24
        assert len(set(drawn(study))) == 24
        restarted = [r for r in study.records() if r.attributes["origin"]["starts"] > 1]
        assert len(restarted) == 1


def _running_on(study):
    """The processes that run a trial now."""
    running = (r for r in study.records() if r.state is State.RUNNING)
    return {r.attributes["origin"]["process"]["pid"] for r in running if "origin" in r.attributes}


class TestHandingBack:
    def test_a_trial_handed_back_keeps_its_number_parameters_and_seed(self, storage):
        study = make_study(storage)
        lease = study.acquire(origin())
        record = lease.hand_back()
        assert record.state is State.WAITING
        again = study.acquire(origin())
        assert (again.number, again.params, again.spec) == (lease.number, lease.params, lease.spec)

    def test_the_trial_of_a_dead_process_is_taken_up_again(self, storage):
        study = make_study(storage)
        gone = {**process_identity(), "pid": 2**22 - 1, "started": 1}
        lease = study.acquire({**origin(), "process": gone})
        again = study.acquire(origin())
        assert (again.number, again.params) == (lease.number, lease.params)

    def test_a_trial_that_died_before_its_origin_was_stored_is_taken_up_again(self, storage):
        study = make_study(storage)
        study.handle.ask()
        assert study.acquire(origin()).number == 0

    def test_the_trial_of_a_live_process_is_left_alone(self, storage):
        study = make_study(storage)
        study.acquire(origin())
        assert study.acquire(origin()).number == 1

    def test_a_process_on_another_host_is_not_known_to_be_gone(self):
        assert not process_is_gone({**process_identity(), "host": "elsewhere", "pid": 1})
        assert not process_is_gone(process_identity())
        assert process_is_gone({**process_identity(), "started": 1})
        assert process_is_gone({**process_identity(), "boot": "an earlier one"})


FEW = {
    "kernel_size": 3,
    "batch_norm": True,
    "head": "gap",
    "dropout": 0.0,
    "optimizer": "adam",
    "weight_decay": 0.0,
    "batch_size": 64,
    "schedule": "constant",
}


class TestDraws:
    @pytest.mark.parametrize("sampler", sorted(set(SAMPLERS) - {"grid", "grid+random"}))
    def test_every_sampler_works_beside_pruned_trials(self, sqlite, sampler):
        trials = 18 if sampler == "gp" else 30
        space = FEW if sampler == "gp" else {}  # gp takes seconds a draw on the whole space
        study = make_study(sqlite, make_spec(sampler=sampler, trials=trials, space=space))
        assert search(study) is StudyStatus.DONE
        kinds = [state.value for state in states(study)]
        assert kinds.count("pruned") >= 3
        assert kinds.count("complete") >= 5
        twins = 3 if sampler == "nsga2" else 0  # a child may take after one parent in all
        assert len(set(drawn(study))) >= trials - twins

    @pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "qmc"])
    def test_a_resumed_search_draws_what_an_unbroken_one_draws(self, tmp_path, sampler):
        spec = make_spec(sampler=sampler, trials=25)
        whole = make_study(open_storage(f"{tmp_path}/whole.db", create=True), spec)
        search(whole)
        for _ in range(5):  # opened again each time, as by a new process
            parts = make_study(open_storage(f"{tmp_path}/parts.db", create=True), spec)
            search(parts, at_most=5)
        assert drawn(parts) == drawn(whole)

    @pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp"])
    def test_a_sampler_that_learns_sees_the_logarithm_of_a_cost(self, sqlite, sampler):
        study = make_study(sqlite, make_spec(sampler=sampler, trials=1, pruner="none"))
        search(study)
        made = make_sampler(study.spec, 30, cell=None, alone=True)
        seen = made._scaled_study(study.handle)

        (trial,) = seen._get_trials(deepcopy=False)
        (stored,) = study.handle.get_trials()

        assert trial.values == [stored.values[0], math.log(stored.values[1])]
        assert seen.directions == study.handle.directions
        assert study.handle.get_trials()[0].values == stored.values

    def test_gp_sees_the_logarithm_of_a_stopped_trials_cost_too(self, sqlite):
        study = make_study(sqlite, make_spec(sampler="gp", trials=2))
        lease = study.acquire(origin())
        lease.write_cost({"params": 20.0})
        lease.write_epoch(curve_of(lease)[:1])
        lease.finish(Outcome(state=State.PRUNED))
        (stopped,) = study.handle.get_trials()

        learned = make_sampler(study.spec, 30, cell=None, alone=True)._inner._as_complete(
            stopped, {"accuracy": 0.0, "train_seconds": 9.0}
        )

        seconds = curve_of(lease)[0].train_seconds
        assert learned.values == [curve_of(lease)[0].val_accuracy, math.log(seconds)]

    def test_the_first_trials_of_a_learning_sampler_climb_from_cheap_to_dear(self, sqlite):
        study = make_study(sqlite, make_spec(trials=5, pruner="none"))
        search(study)
        assert [r.params["n_blocks"] for r in study.records()] == [1, 2, 3, 4, 5]
        assert len({r.params["growth"] for r in study.records()}) > 1  # an open value is drawn

    @pytest.mark.parametrize(("images", "batch_size"), [(3500, 128), (84, 64)])
    def test_they_begin_with_batches_that_suit_the_number_of_images(
        self, sqlite, images, batch_size
    ):
        study = make_study(sqlite, data={"content": "abc", "train": images})
        assert study.acquire(origin()).params["batch_size"] == batch_size

    def test_samplers_with_the_same_seed_repeat_their_draws(self):
        """The reason for a sampler per trial; if this fails, Optuna has changed."""
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        first = study.ask().suggest_float("x", 0, 1)
        study.sampler = optuna.samplers.RandomSampler(seed=0)
        assert study.ask().suggest_float("x", 0, 1) == first

    def test_another_seed_draws_other_values(self, sqlite):
        one = make_study(sqlite, make_spec("one", seed=1, trials=3))
        two = make_study(sqlite, make_spec("two", seed=2, trials=3))
        search(one)
        search(two)
        assert not set(drawn(one)) & set(drawn(two))

    def test_nsga2_breeds_within_a_hundred_trials(self):
        from hpsearch.search.samplers import population

        assert population(make_spec(trials=100)) == 20

    @pytest.mark.parametrize("objectives", [("accuracy",), ("val_loss",), ("params",)])
    def test_tpe_copes_with_one_objective_and_pruned_trials(self, sqlite, objectives):
        study = make_study(sqlite, make_spec(objectives=objectives, trials=20))
        assert search(study) is StudyStatus.DONE
        trials = study.handle.get_trials()
        has_curve = [bool(trial.intermediate_values) for trial in trials]
        assert all(has_curve) if objectives != ("params",) else not any(has_curve)

    def test_a_multi_objective_study_reports_nothing_that_breaks_tpe(self, sqlite):
        study = make_study(sqlite)
        search(study)
        assert not any(trial.intermediate_values for trial in study.handle.get_trials())


GRID = {
    "n_blocks": IntDim(low=1, high=3),
    "optimizer": ChoiceDim(choices=("sgd", "adam")),
}


class TestGrid:
    def spec(self, sampler, trials, **settings):
        grid = ("n_blocks", "optimizer")
        return make_spec(sampler=sampler, grid=grid, trials=trials, space=GRID, **settings)

    def cells(self, study):
        keys = ("n_blocks", "optimizer")
        return [tuple(r.params[key] for key in keys) for r in study.records() if r.state.counts]

    def test_grid_deals_each_cell_once_and_ends(self, sqlite):
        study = make_study(sqlite, self.spec("grid", 50))
        assert search(study) is StudyStatus.USED_UP
        assert sorted(self.cells(study)) == sorted(
            (n, o) for n in (1, 2, 3) for o in ("adam", "sgd")
        )

    def test_a_failed_cell_is_dealt_again(self, sqlite):
        study = make_study(sqlite, self.spec("grid", 50))
        study.acquire(origin()).finish(FAILED)
        assert search(study) is StudyStatus.USED_UP
        assert len(set(self.cells(study))) == len(self.cells(study)) == 6

    def test_grid_and_random_starts_another_round_with_new_random_values(self, sqlite):
        study = make_study(sqlite, self.spec("grid+random", 14))
        assert search(study) is StudyStatus.DONE
        dealt = self.cells(study)
        assert {dealt.count(cell) for cell in dealt} <= {2, 3}
        assert len(set(dealt)) == 6
        assert len({r.params["learning_rate"] for r in study.records()}) == 14

    def test_a_cell_handed_back_stays_the_trials_own(self, sqlite):
        study = make_study(sqlite, self.spec("grid", 50))
        lease = study.acquire(origin())
        lease.hand_back()
        search(study)
        assert len(set(self.cells(study))) == len(self.cells(study)) == 6

    def test_a_grid_without_end_is_refused(self, sqlite):
        study = make_study(sqlite, make_spec(sampler="grid", trials=5))
        with pytest.raises(StudyError, match="more than 100,000 cells; narrow"):
            study.acquire(origin())

    def test_fewer_trials_than_cells_is_warned_of(self):
        told = []
        with messages_to(told.append):
            _check_grid(self.spec("grid", 5))
            _check_grid(self.spec("grid", 6))
        assert told == ["the grid has 6 cells but trials = 5: not every cell will be tried"]

    def test_a_parameter_outside_the_grid_does_not_break_it(self, sqlite):
        study = make_study(sqlite, self.spec("grid+random", 7))
        study.enqueue({"n_blocks": 3, "learning_rate": 0.01})
        assert search(study) is StudyStatus.DONE
        assert study.records()[0].params["learning_rate"] == 0.01


class TestNames:
    def test_the_longest_name_is_stored(self, storage):
        study = make_study(storage, make_spec("n" * 512))
        assert study_names(storage) == [study.name]

    @pytest.mark.parametrize(
        ("name", "told"),
        [
            ("n" * 513, "found 513 characters .*expected at most 512; choose another"),
            ("a\0b", "control characters|without NUL"),
            ("a\nb", "control characters"),
            ("a\udcffb", "in UTF-8"),
        ],
    )
    @pytest.mark.parametrize("of", ["study", "dimension"])
    def test_a_name_that_a_database_cannot_store_is_refused_by_each(self, storage, of, name, told):
        place = "name" if of == "study" else "space"
        with pytest.raises((SpecError, ValueError), match=rf"{place}: .*({told})"):
            make_study(
                storage,
                make_spec(name) if of == "study" else make_spec(space={name: WIDTHS}),
            )
        assert storage.studies() == []


class TestChanges:
    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"space": {"n_blocks": 2}}, "space.n_blocks was"),
            ({"seed": 9}, "search.seed was 0, now 9"),
            ({"objectives": ("accuracy",)}, "search.objectives was"),
        ],
    )
    def test_a_study_changed_under_the_same_name_is_refused(self, storage, change, told):
        make_study(storage)
        with pytest.raises(StudyError, match=told):
            make_study(storage, make_spec(**change))

    def test_a_spec_that_another_program_rewrites_during_a_run_is_not_followed(self, storage):
        """It may name code that nobody has allowed."""
        study = make_study(storage)
        study.acquire(origin()).hand_back()
        theirs = to_json(
            replace(make_spec(), train=RecipeSpec(epochs=EPOCHS, function="evil:train"))
        )
        study.handle.set_user_attr(SPEC, theirs)
        with pytest.raises(StudyError, match=r"was changed \(train.function was .*; run a new one"):
            study.acquire(origin())
        study.handle.set_user_attr(SPEC, to_json(make_spec(trials=40)))
        study.acquire(origin())
        assert study.spec.search.trials == 40

    def test_other_data_under_the_same_name_is_refused(self, storage):
        make_study(storage)
        with pytest.raises(StudyError, match=r"the images \(same number, different content\)"):
            make_study(storage, data={"content": "xyz", "train": 10})

    def test_what_may_change_is_changed_and_logged(self, storage):
        make_study(storage)
        study = make_study(storage, make_spec(sampler="random", pruner="none", trials=40))
        assert study.spec.search.sampler == "random"
        (entry,) = study.attributes[CHANGES]
        assert entry["changed"]["pruning.pruner"] == ["forecast", "none"]
        assert set(entry["changed"]) == {"pruning.pruner", "search.sampler", "search.trials"}

    def test_a_study_of_another_program_is_left_alone(self, storage):
        optuna.create_study(study_name="s", storage=storage.backend)
        with pytest.raises(StudyError, match="was not made by hpsearch"):
            make_study(storage)
        with pytest.raises(StudyError, match="was not made by hpsearch"):
            open_study(storage, "s")

    def test_a_study_whose_creation_was_interrupted_is_created_again(self, storage):
        half = optuna.create_study(study_name="s", storage=storage.backend)
        half.set_user_attr("hpsearch:data", {})
        assert isinstance(make_study(storage).acquire(origin()), Lease)

    def test_a_study_opened_before_its_first_worker_came_knows_its_bounds_after(self, storage):
        early = submit(storage, make_spec(trials=2))
        assert (early.summary().hypervolume, early.bounds) == (0.0, {})
        search(make_study(storage, make_spec(trials=2)))
        assert early.summary().complete == 2
        assert early.summary().hypervolume > 0.1

    def test_bounds_are_asked_for_once_and_kept(self, storage):
        make_study(storage)

        def never():
            raise AssertionError("the bounds are fixed with the study")

        again = create_or_resume(
            storage, make_spec(), data={"content": "abc", "train": 10}, reference={}, bounds=never
        )
        assert again.bounds["accuracy"] == (0.1, 1.0)


class TestFinding:
    def test_the_newest_study_is_the_default_and_an_unknown_name_is_hinted_at(self, storage):
        with pytest.raises(StudyError, match=r"no study in .*; start one with"):
            open_study(storage)
        make_study(storage, make_spec("digits"))
        make_study(storage, make_spec("letters"))
        assert open_study(storage).name == "letters"
        with pytest.raises(StudyError, match="did you mean 'letters'"):
            open_study(storage, "leters")
        delete(storage, open_study(storage, "letters"))
        assert study_names(storage) == ["digits"]

    def test_plain_optuna_loads_our_study_and_sees_everything(self, storage):
        search(make_study(storage, make_spec(trials=8)))
        plain = optuna.load_study(study_name="s", storage=storage.backend)
        assert [d.name for d in plain.directions] == ["MAXIMIZE", "MINIMIZE"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert plain.metric_names == ["accuracy (fraction)", "train_seconds (s)"]
        best = plain.best_trials[0]
        assert len(best.user_attrs["curve"]["val_loss"]) == EPOCHS
        assert {"origin", "cost", "spec"} <= set(best.user_attrs)

    def test_a_trial_that_is_not_there_is_named(self, storage):
        study = make_study(storage)
        with pytest.raises(StudyError, match="found no trial 3 in study 's', which has no trials"):
            study.record(3)


def test_the_newest_study_is_the_one_created_last_though_its_clock_was_behind(sqlite):
    make_study(sqlite, make_spec(name="first"))
    second = make_study(sqlite, make_spec(name="second"))
    second.handle.set_user_attr(CREATED, "2001-01-01T00:00:00+00:00")
    assert open_study(sqlite).name == "second"

"""What hpsearch depends on of optuna-dashboard, beside its one public function: canaries."""

import io
import json
import re
from pathlib import Path

import optuna
import optuna_dashboard
import plotly.graph_objects as go
import pytest

from hpsearch.view.dashboard.annotations import Annotations
from hpsearch.view.dashboard.server import CHANGES, UPLOADS
from tests.integration.canaries import canary

KEY = "0ae1cbf2-2b3f-5b8e-9a5b-b3f6f1a7a5c2"
FIGURE = '{"data":[],"layout":{}}'
WRITES = {
    "DELETE /api/artifacts/<study_id:int>/<artifact_id:re:[0-9a-fA-F-]+>",
    "DELETE /api/artifacts/<study_id:int>/<trial_id:int>/<artifact_id:re:[0-9a-fA-F-]+>",
    "DELETE /api/studies/<study_id:int>",
    "DELETE /api/studies/<study_id:int>/preference/<history_id>",
    "POST /api/artifacts/<study_id:int>",
    "POST /api/artifacts/<study_id:int>/<trial_id:int>",
    "POST /api/llm/generate_plotly_graph_query",
    "POST /api/llm/re_generate_plotly_graph_query",
    "POST /api/llm/trial_filter_query",
    "POST /api/studies",
    "POST /api/studies/<study_id:int>/<trial_id:int>/skip",
    "POST /api/studies/<study_id:int>/preference",
    "POST /api/studies/<study_id:int>/preference/<history_id>",
    "POST /api/studies/<study_id:int>/rename",
    "POST /api/trials/<trial_id:int>/tell",
    "POST /api/trials/<trial_id:int>/user-attrs",
    "POST /incompatible-rdb-schema",
    "PUT /api/studies/<study_id:int>/<trial_id:int>/note",
    "PUT /api/studies/<study_id:int>/note",
    "PUT /api/studies/<study_id:int>/preference_feedback_component",
}


class Store:
    """A store of artifacts, as the dashboard asks for one."""

    def open_reader(self, artifact_id):
        return io.BytesIO(f"content of {artifact_id}".encode())

    def write(self, artifact_id, content_body):
        raise PermissionError

    def remove(self, artifact_id):
        raise PermissionError


@pytest.fixture
def study():
    """A study with one trial, and what hpsearch shows with them among its system attributes."""
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage(), direction="maximize")
    trial = study.ask()
    study.tell(trial, trial.suggest_float("x", 0, 1))
    meta = {"artifact_id": KEY, "filename": "c.svg", "mimetype": "image/svg+xml", "encoding": None}
    shown = Annotations(
        notes={"dashboard:": "of the study", f"dashboard:{trial._trial_id}:": "of the trial"},
        attributes={
            "dashboard:plot_data:hpsearch-curves:0": FIGURE,
            f"dashboard:artifacts:{trial._trial_id}:{KEY}": json.dumps(meta),
        },
    )
    for key, value in shown.over({}).items():
        study._storage.set_study_system_attr(study._study_id, key, value)
    return study


@pytest.fixture
def app(study):
    return optuna_dashboard.wsgi(study._storage, artifact_store=Store())


def ask(app, path, *, method="GET", body=None):
    """The status, headers and body of the app's answer."""
    content, told = json.dumps(body).encode(), {}
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "wsgi.input": io.BytesIO(content)}
    environ |= {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(content))}
    environ |= {"SERVER_NAME": "here", "SERVER_PORT": "80", "wsgi.url_scheme": "http"}

    def start_response(status, headers, _=None):
        told.update(status=status, headers=dict(headers))

    answer = app({**environ, "wsgi.errors": io.StringIO()}, start_response)
    content = b"".join(answer)
    if hasattr(answer, "close"):
        answer.close()
    return told["status"][:3], told["headers"], content


def routes(app):
    return {f"{route.method} {route.rule}" for route in app.routes}


@canary(fix=["hpsearch/view/dashboard/annotations.py", "hpsearch/view/dashboard/server.py"])
def test_notes_figures_and_files_are_read_from_a_studys_system_attributes(app):
    status, _, body = ask(app, "/api/studies/0")
    detail = json.loads(body)
    (trial,) = detail["trials"]
    assert status == "200"
    assert detail["note"] == {"version": 1, "body": "of the study"}
    assert trial["note"] == {"version": 1, "body": "of the trial"}
    assert detail["plotly_graph_objects"] == [{"id": "hpsearch-curves", "graph_object": FIGURE}]
    (artifact,) = trial["artifacts"]
    assert (artifact["artifact_id"], artifact["filename"]) == (KEY, "c.svg")


@canary(fix=["hpsearch/view/dashboard/annotations.py"])
def test_the_dashboard_itself_writes_notes_and_figures_by_these_names():
    study = optuna.create_study()
    trial = study.ask()
    optuna_dashboard.save_note(study, "a")
    optuna_dashboard.save_note(trial, "b")
    optuna_dashboard.save_plotly_graph_object(study, go.Figure(), graph_object_id="hpsearch-x")
    written = study._storage.get_study_system_attrs(study._study_id)
    figure = written.pop("dashboard:plot_data:hpsearch-x:0")
    assert figure.startswith('{"')
    assert {key: value for key, value in written.items() if "note" in key} == {
        "dashboard:note_ver": 1,
        "dashboard:note_str:0": "a",
        f"dashboard:{trial._trial_id}:note_ver": 1,
        f"dashboard:{trial._trial_id}:note_str:0": "b",
    }


@canary(fix=["hpsearch/view/dashboard/annotations.py"])
def test_a_note_is_saved_as_the_version_after_the_shown_one(app):
    """A note of ours has version 1: what a user saves over it has version 2."""
    address = "/api/studies/0/note"
    for version, status in ((1, "409"), (3, "409"), (2, "204")):
        body = {"body": "mine", "version": version}
        assert ask(app, address, method="PUT", body=body)[0] == status
    assert json.loads(ask(app, "/api/studies/0")[2])["note"] == {"version": 2, "body": "mine"}


@canary(fix=["hpsearch/view/dashboard/annotations.py", "hpsearch/view/dashboard/server.py"])
def test_a_file_is_read_from_the_store_and_has_its_own_address(app):
    status, headers, body = ask(app, f"/artifacts/0/0/{KEY}")
    assert (status, headers["Content-Type"]) == ("200", "image/svg+xml")
    assert body == f"content of {KEY}".encode()


@canary(fix=["hpsearch/view/dashboard/auth.py", "hpsearch/view/dashboard/server.py"])
def test_only_these_requests_write(app):
    """A new one may need a button hidden; one that writes files begins with its own prefix."""
    found = {route for route in routes(app) if not route.startswith("GET ")}
    assert found == WRITES
    files = {route.split()[1] for route in routes(app) if "artifact" in route}
    assert all(path.startswith(("/artifacts/", "/api/artifacts/")) for path in files)


@canary(
    fix=[
        "hpsearch/view/dashboard/server.py",
        "hpsearch/view/dashboard/server.py",
        "hpsearch/view/dashboard/server.py",
    ]
)
def test_pages_and_the_studies_have_these_addresses(app):
    assert {"GET /dashboard<:re:(/.*)?>", "GET /api/studies/<study_id:int>"} <= routes(app)
    status, headers, body = ask(app, "/dashboard/studies/0")
    assert (status, headers["Content-Type"].split(";")[0]) == ("200", "text/html")
    assert body.count(b"</head>") == 1
    assert ask(app, "/api/studies/0/")[0] == "200"


@canary(fix=["hpsearch/search/storage/overlay.py"])
def test_pages_read_a_storage_by_the_methods_that_are_overridden(app, study, monkeypatch):
    read, within = set(), []

    def spying(name, method):
        def spy(*args, **kwargs):
            read.update([name] * (not within))  # not what a method of the storage calls
            within.append(name)
            try:
                return method(*args, **kwargs)
            finally:
                within.pop()

        return spy

    for name in dir(study._storage):
        if name.startswith("get_"):
            monkeypatch.setattr(study._storage, name, spying(name, getattr(study._storage, name)))
    for path in ("/api/studies", "/api/studies/0", f"/artifacts/0/0/{KEY}"):
        assert ask(app, path)[0] == "200"
    assert read == {
        "get_all_studies",
        "get_all_trials",
        "get_best_trial",
        "get_study_system_attrs",
    }


@canary(fix=["hpsearch/view/dashboard/server.py"])
@pytest.mark.parametrize("selector", [*UPLOADS, *CHANGES])
def test_what_is_hidden_is_marked_so_in_the_pages_code(selector):
    """tests/acceptance/test_dashboard.py looks at the pages, where there is a browser."""
    code = (Path(optuna_dashboard.__file__).parent / "public/bundle.js").read_text("utf-8")
    labels = re.findall(r'aria-label="([^"]+)"', selector)
    icons = re.findall(r'data-testid="(\w+)Icon"', selector)
    classes = re.findall(r"\.(Mui\w+)-(\w+)", selector)
    assert labels or icons or classes
    assert all(f'"aria-label":"{label}"' in code for label in labels)
    assert all(f'"{icon}")' in code for icon in icons)
    assert all(f'"{part}"' in code for found in classes for part in found)
    assert ('type="file"' not in selector) or 'type:"file"' in code
    assert '"data-testid":`${t}Icon`' in code or not icons

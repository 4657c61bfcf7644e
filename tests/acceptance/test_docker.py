"""The image and the compose file, without a Docker engine: lint, schema, and the services run."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from sqlalchemy.engine import make_url

from hpsearch.core.trial import State
from hpsearch.errors import HpsearchError
from hpsearch.search.storage.storage import open_storage
from hpsearch.search.study.catalog import open_study
from tests.acceptance.conftest import PATIENCE_SECONDS, sites_in
from tests.servers import own_server, restart

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
ENTRY = json.loads(re.findall(r"^ENTRYPOINT (.*)", (DOCKER / "Dockerfile").read_text(), re.M)[-1])
TRIALS = 12
CUDA = ("cuda-", "nvidia-", "triton")  # what torch's build for processors does without

STUDY = """
[data]
dataset = "digits.npz"
[model]
factory = "nets:build"
[train]
epochs = 60
[search]
trials = 2
[pruning]
pruner = "none"
[space]
hidden = { low = 4, high = 8 }
batch_size = 16
"""
NETS = """
from torch import nn


def build(params, input_shape, classes):
    channels, height, width = input_shape
    hidden = nn.Linear(channels * height * width, params["hidden"])
    return nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), nn.Linear(params["hidden"], classes))
"""
# What a server asks of all but its tests, who are its owner.
ASKED = """
local all postgres trust
local all all scram-sha-256
host all all all scram-sha-256
"""


def tool(*command: object) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / str(command[0])
    found = str(program) if program.exists() else shutil.which(str(command[0]))
    if found is None:
        pytest.skip(f"{command[0]} is not installed")
    arguments = [str(argument) for argument in command[1:]]
    return subprocess.run([found, *arguments], capture_output=True, text=True)


def test_the_dockerfile_has_nothing_to_lint():
    linted = tool("hadolint", "--no-color", DOCKER / "Dockerfile")
    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_compose_file_is_one():
    checked = tool(
        "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DOCKER / "compose.yaml"
    )
    assert checked.returncode == 0, checked.stdout


def test_the_image_runs_as_nobody_special_and_holds_no_secret():
    text = (DOCKER / "Dockerfile").read_text()
    assert re.search(r"^USER 10001$", text, re.MULTILINE)
    assert not re.search(r"password\s*=|secret\s*=", text, re.IGNORECASE)
    assert "PASSWORD" not in json.dumps(SERVICES["db"]["environment"]).replace("PASSWORD_FILE", "")
    copied = re.findall(r"^COPY (?:--\S+ )*(\S+) ", text, re.MULTILINE)
    for name in copied:
        assert (ROOT / name).exists() or name.startswith("/opt")


def test_pulled_images_are_named_to_their_patch():
    bases = re.findall(r"^FROM (\S+)", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    assert len(bases) == 2
    assert all(re.match(r"python:\d+\.\d+\.\d+-", base) for base in bases)
    assert re.fullmatch(r"postgres:\d+\.\d+", SERVICES["db"]["image"])


def test_only_volumes_with_a_name_are_made_and_signals_reach_every_command():
    assert "VOLUME" not in (DOCKER / "Dockerfile").read_text()
    for name, service in SERVICES.items():
        sources = [volume.split(":")[0] for volume in service.get("volumes", ())]
        assert all(s in COMPOSE["volumes"] or s.startswith("../") for s in sources)
        assert service.get("init", False) == (name != "db")  # PostgreSQL does so itself


def pins() -> dict[str, Version]:
    """The versions that the images are built with, by the packages' canonical names."""
    lines = (DOCKER / "constraints.txt").read_text().splitlines()
    split = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in split}


def requirements_of(name: str, version: Version) -> list[str] | None:
    """What that very version of a package requires; None where another one is installed."""
    try:
        here = Version(metadata.version(name)).public  # without torch's "+cpu"
    except metadata.PackageNotFoundError:
        return None
    return (metadata.requires(name) or []) if Version(here) == version else None


def test_the_constraints_pin_every_dependency_to_what_all_others_take():
    """Otherwise pip cannot build the image, or builds an untested one."""
    pinned = pins()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["postgres"], *extras["s3"]]
    todo = [("hpsearch", "", requirement) for requirement in wanted]
    seen, reached, unknown = set(todo), set(), set()
    while todo:
        asker, extra, text = todo.pop()
        asked = Requirement(text)
        if asked.marker is not None and not asked.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(asked.name)
        assert name in pinned, f"{asker} requires {text}, which is not pinned"
        assert asked.specifier.contains(pinned[name]), f"{asker} requires {text}: {pinned[name]}"
        reached.add(name)
        further = requirements_of(name, pinned[name])
        if further is None:
            unknown.add(name)
            continue
        more = {(name, extra, text) for extra in ("", *asked.extras) for text in further} - seen
        todo += more
        seen |= more
    unused = {name for name in set(pinned) - reached if not name.startswith(CUDA)}
    assert not unused or unknown  # what another version requires may be what is pinned


class Stack:
    """The compose file's services as processes: their own commands, environment and folder."""

    def __init__(self, folder: Path, server: object, secret: Path) -> None:
        self.folder, self.server, self.secret = folder, server, secret
        self.running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def environment(self, service: str) -> dict[str, str]:
        """The service's own, with the host ``db`` and the mounted files where they are here."""
        given = dict(SERVICES[service]["environment"])
        url = make_url(given["HPSEARCH_STORAGE"])
        assert url.host == "db"
        there = make_url(self.server.get_uri())
        url = url.set(host=None).update_query_dict({"host": str(there.query["host"])})
        given["HPSEARCH_STORAGE"] = url.render_as_string(hide_password=False)
        assert given["PGPASSWORD_FILE"] == "/run/secrets/db_password"
        given["PGPASSWORD_FILE"] = str(self.secret)
        name = "HPSEARCH_DASHBOARD_PASSWORD_FILE"
        if name in given:
            assert given[name] == "/run/secrets/dashboard_password"
            assert "dashboard_password" in SERVICES[service]["secrets"]
            given[name] = str(self.folder / "dashboard_password.txt")
        if "HPSEARCH_ALIVE" in given:
            given["HPSEARCH_ALIVE"] = str(self.folder / "alive")
        inside = dict(re.findall(r"(HPSEARCH_\w+)=(\S+)", (DOCKER / "Dockerfile").read_text()))
        image = {name: f"{self.folder}{path}" for name, path in inside.items()}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**os.environ, **image, **given, "PATH": path}

    def start(self, service: str, *more: str) -> subprocess.Popen[bytes]:
        """Starts a service as compose would: the image's entry point, the service's command."""
        entry = SERVICES[service].get("entrypoint", ENTRY)
        command = [*entry, *map(str, SERVICES[service]["command"]), *more]
        command = ["0" if part == "8080" else part for part in command]  # that one may be taken
        with (self.folder / f"{service}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, **self.place(service))
        self.running.append((service, process))
        return process

    def place(self, service: str) -> dict[str, Any]:
        """Where a service's processes run, and with what environment."""
        folder = SERVICES[service].get("working_dir")
        if folder is not None:
            mounted = [volume.split(":")[1] for volume in SERVICES[service]["volumes"]]
            assert folder in mounted
        return {"cwd": f"{self.folder}{folder or ''}", "env": self.environment(service)}

    def run(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in a service's container, as ``docker compose exec`` does."""
        return subprocess.run(command, capture_output=True, text=True, **self.place(service))

    def is_healthy(self, service: str, *, port: str = "8080") -> bool:
        """Whether the service's own check finds it well; ``port`` is where 8080 is here."""
        kind, *words = SERVICES[service]["healthcheck"]["test"]
        shell = ["sh", "-c"] if kind == "CMD-SHELL" else []
        words = [word.replace("$$", "$").replace("8080", port) for word in words]
        return self.run(service, *shell, *words).returncode == 0

    def wait_for(self, get):
        """Waits until ``get`` finds something; restarts what has ended, as compose would."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            with suppress(OSError, HpsearchError):
                if (found := get()) is not None:
                    return found
            assert time.monotonic() < deadline
            for service, process in list(self.running):
                if process.poll() is not None and SERVICES[service]["restart"] == "unless-stopped":
                    self.running.remove((service, process))
                    self.start(service)
            time.sleep(0.1)

    def close(self) -> None:
        for _, process in self.running:
            if process.poll() is None:
                process.terminate()
        for _, process in self.running:
            process.wait(PATIENCE_SECONDS)


@pytest.fixture
def stack(tmp_path, digits_npz):
    import psycopg

    studies = tmp_path / "studies"
    studies.mkdir()
    shutil.copy(digits_npz, studies / "digits.npz")
    (studies / "nets.py").write_text(NETS)
    (studies / "small.toml").write_text(STUDY)
    secret = tmp_path / "db_password.txt"
    secret.write_text("hush")
    (tmp_path / "dashboard_password.txt").write_text("psst\n")
    environment = SERVICES["db"]["environment"]
    with own_server() as server:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            user, database = environment["POSTGRES_USER"], environment["POSTGRES_DB"]
            connection.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'hush'")
            connection.execute(f"CREATE DATABASE {database} OWNER {user}")
            (Path(server.pgdata) / "pg_hba.conf").write_text(ASKED)
            connection.execute("SELECT pg_reload_conf()")
        started = Stack(tmp_path, server, secret)
        try:
            yield started
        finally:
            started.close()


def logged_in(address):
    known = base64.b64encode(b"hpsearch:psst").decode()
    return urllib.request.Request(address, headers={"Authorization": f"Basic {known}"})


def test_the_services_run_a_study_through_a_lost_worker_and_a_lost_database(
    stack, tmp_path, monkeypatch
):
    log = tmp_path / "dashboard.log"
    stack.start("dashboard")
    stack.wait_for(lambda: "waiting for one to be started" in log.read_text() or None)
    first = stack.start("worker")
    stack.start("worker")
    submitted = stack.start("submit", "small.toml", "--trials", str(TRIALS))
    assert submitted.wait(PATIENCE_SECONDS) == 0
    url = stack.environment("worker")["HPSEARCH_STORAGE"]
    with pytest.raises(HpsearchError, match="no password supplied"):
        open_storage(url, create=False)
    monkeypatch.setenv("PGPASSWORD_FILE", str(stack.secret))
    storage = open_storage(url, create=False)
    study = open_study(storage, "small")

    def ended(count):
        return study.records() if study.summary().complete >= count else None

    stack.wait_for(lambda: ended(2))
    first.send_signal(signal.SIGKILL)
    stack.wait_for(lambda: ended(4))
    restart(stack.server)  # docker compose restart db
    records = stack.wait_for(lambda: ended(TRIALS))

    assert [r.state for r in records if r.state is not State.COMPLETE] == []
    assert len(records) == TRIALS
    for record in records:
        assert [epoch.epoch for epoch in record.curve] == list(range(1, 61))
    assert all("hush" not in path.read_text() for path in tmp_path.glob("*.log"))
    status = stack.run("worker", "hpsearch", "status", "--json")
    assert json.loads(status.stdout)["complete"] == TRIALS
    sites = stack.wait_for(lambda: sites_in(log.read_text()) or None)
    address = f"{sites[-1]}/api/studies"
    told = stack.wait_for(lambda: json.load(urllib.request.urlopen(logged_in(address))))
    assert [s["study_name"] for s in told["study_summaries"]] == ["small"]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(address)
    storage.close()

    port = sites[-1].rpartition(":")[2]
    alive = tmp_path / "alive"
    assert stack.is_healthy("dashboard", port=port)
    os.utime(alive, (0, 0))  # 1970
    assert stack.wait_for(lambda: stack.is_healthy("worker") or None)
    stack.close()
    os.utime(alive, (0, 0))
    assert not stack.is_healthy("worker")
    assert not stack.is_healthy("dashboard", port=port)

"""The image: what its file says, without an engine that could build it."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distribution, version
from itertools import pairwise
from json import loads
from pathlib import Path
from threading import Thread

import pytest
from packaging.requirements import Requirement

from stock_assets import __version__
from tests.browser import free_port
from tests.charts import PLATFORM, values
from tests.conftest import ROOT

TEXT = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
LINES = [line.partition(" ") for line in TEXT.splitlines() if line and line[0] != "#"]
STEPS = [(word, rest) for word, _, rest in LINES]
LAST = STEPS[max(at for at, (word, _) in enumerate(STEPS) if word == "FROM") :]


def steps(word: str) -> list[str]:
    return [rest for found, rest in STEPS if found == word]


def test_what_is_copied_is_there_and_not_left_out() -> None:
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"]
    for copy in steps("COPY"):
        *sources, _ = copy.split()
        if not sources[0].startswith("--from="):
            assert all((ROOT / source).exists() for source in sources)
            assert {source.removeprefix("./") for source in sources} <= {*let_in}


def test_it_runs_as_the_user_that_the_values_name() -> None:
    (user,) = [rest for word, rest in LAST if word == "USER"]
    pod = values(*PLATFORM)["stockAssets"]["process"]["podSecurityContext"]
    assert user == f"{pod['runAsUser']}:{pod['runAsGroup']}"
    assert f"useradd --uid {pod['runAsUser']} " in dict(LAST)["RUN"]


def test_the_last_stage_installs_nothing() -> None:
    assert not [rest for word, rest in LAST if word == "RUN" and re.search(r"apt|pip|gcc", rest)]
    assert not re.search(r"gcc|build-essential|-dev\b", TEXT)


def test_packages_of_debian_leave_nothing_behind() -> None:
    for run in steps("RUN"):
        if "apt-get" in run:
            assert re.search(
                r"apt-get update && .*--no-install-recommends", re.sub(r"\s+", " ", run)
            )
            assert "rm -rf /var/lib/apt/lists/*" in run
    assert not steps("ADD")


def test_any_debian_may_be_its_base() -> None:
    first, *_ = steps("ARG")
    assert re.fullmatch(r"BASE=python:3\.\d+-slim-\w+", first)
    assert [base.split()[0] for base in steps("FROM")] == ["${BASE}", "base", "base"]


def test_no_secret_gets_into_it() -> None:
    named = " ".join(steps("ARG") + steps("ENV"))
    assert not re.search(r"PASSWORD|SECRET|TOKEN|_KEY", named)


def test_it_is_labelled_with_its_version() -> None:
    assert steps("ARG")[-1] == f"VERSION={__version__}"
    labels = dict(label.split("=", 1) for label in shlex.split(steps("LABEL")[0]))
    assert labels["org.opencontainers.image.version"] == "${VERSION}"
    assert labels["org.opencontainers.image.licenses"] == "MIT"
    assert f"stock-assets:{__version__}" in (ROOT / "Dockerfile").read_text()
    process = values(*PLATFORM)["stockAssets"]["process"]
    assert process["image"]["tag"] == __version__


def test_it_installs_what_runs_need_as_it_is_locked() -> None:
    (install,) = [run for run in steps("RUN") if "--requirement pyproject.toml" in run]
    assert "--constraint requirements.lock" in install  # whose hashes uv holds packages against
    assert "--only-binary :all:" in install
    lock = (ROOT / "requirements.lock").read_text()
    assert re.search(r"^uv==[0-9.]+ ", lock, re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    (usual,) = [arg.removeprefix("EXTRA=") for arg in steps("ARG") if arg.startswith("EXTRA=")]
    assert usual == "s3,yahoo"
    for extra in usual.split(","):
        for name in {Requirement(line).name for line in extras[extra]}:
            assert re.search(rf"^{name}==[0-9.]+ ", lock, re.MULTILINE)


@pytest.mark.parametrize("extras", ["s3", "s3,yahoo", "gcs,azure,yahoo"])
def test_it_can_do_besides_what_is_asked_for(extras: str) -> None:
    (install,) = [run for run in steps("RUN") if "--requirement pyproject.toml" in run]
    of_uv = re.search(r"/opt/uv/bin/uv (pip install .*)", install)
    assert of_uv
    words = ["sh", "-c", f"printf '%s\\n' {of_uv[1]}"]
    told = subprocess.run(
        words,
        env={"EXTRA": extras, "PATH": "/usr/bin:/bin"},
        check=True,
        capture_output=True,
        text=True,
    )
    given = told.stdout.split()
    asked = [word for before, word in pairwise(given) if before == "--extra"]
    assert asked == extras.split(",")
    assert given[-1] == asked[-1]


def run(command: str, root: Path) -> None:
    """Run it below a root of its own, with the tools that are here: nothing is fetched."""
    here = command.replace("/opt/uv", sys.prefix).replace("/opt/stock-assets", f"{root}/env")
    env = os.environ | {"PATH": f"{sys.prefix}/bin:/usr/bin:/bin", "UV_OFFLINE": "1"}
    subprocess.run(["sh", "-c", here], cwd=root / "build", env=env, check=True)


def test_the_list_of_what_is_installed_is_on_it(tmp_path: Path) -> None:
    (made,) = [run for run in steps("RUN") if "venv --without-pip" in run]
    (listed,) = [run for run in steps("RUN") if "cyclonedx_py" in run]
    assert "--constraint requirements.lock cyclonedx-bom" in listed
    (tmp_path / "build").mkdir()
    for name in steps("COPY")[0].split()[:-1]:
        shutil.copy(ROOT / name, tmp_path / "build")
    run(made.split(" && ")[0], tmp_path)
    (packages,) = tmp_path.glob("env/lib/python3*/site-packages")
    assert not list(packages.iterdir())  # of Python's own pip and setuptools none is locked
    for name in ("numpy", "pandas", "stock_assets"):
        info = f"{name}-{version(name)}.dist-info"
        shutil.copytree(str(distribution(name).locate_file(info)), packages / info)

    run(listed, tmp_path)

    told = loads((tmp_path / "build" / "stock-assets.cdx.json").read_text())
    assert told["bomFormat"] == "CycloneDX"
    assert told["metadata"]["component"]["name"] == "stock-assets"
    assert {each["purl"] for each in told["components"]} == {
        f"pkg:pypi/{name}@{version(name)}" for name in ("numpy", "pandas")
    }
    copied = [rest for word, rest in LAST if word == "COPY" and "--from=" in rest]
    assert copied == [
        "--from=build /opt/stock-assets /opt/stock-assets",
        "--from=build /build/stock-assets.cdx.json /usr/share/sbom/",
    ]


class _Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("is_up", [True, False])
def test_health_is_that_of_the_service(*, is_up: bool) -> None:
    (check,) = steps("HEALTHCHECK")
    _, *words = loads(check[check.index("[") :])
    with ThreadingHTTPServer(("127.0.0.1", 0), _Health) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_port if is_up else free_port()
        there = [word.replace("8000", str(port)) for word in words]
        done = subprocess.run([sys.executable, *there], capture_output=True, check=False)
        server.shutdown()
    assert (done.returncode == 0) == is_up

"""The page on security: its promises are tests, its commands are run, its links lead somewhere."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packaging.requirements import Requirement

from tests.conftest import ROOT
from tests.test_alerts import ALERTS
from tests.test_backup import PAGE, blocks
from tests.test_hostile_dagster import Quiet, served

TEXT = PAGE.read_text()


def made(*words: str) -> subprocess.CompletedProcess[str]:
    """What make says, where all is installed."""
    return subprocess.run(
        ["make", "--old-file=install", *words],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )


def test_every_promise_is_a_test_that_is_there() -> None:
    (table,) = re.findall(r"^## What is promised.*?(?=^## )", TEXT, re.M | re.S)
    rows = [line for line in table.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 10
    for row in rows:
        (named,) = re.findall(r"`(tests/\w+\.py)::(test_\w+)`", row)
        file, name = named
        assert f"\ndef {name}(" in (ROOT / file).read_text(), row


def test_every_command_is_run() -> None:
    run = {"Back up and restore": 6, "Upgrade": 1, "Two on one server": 1}  # by tests of theirs
    titles = re.findall(r"^## (.*)$", TEXT, re.M)
    found = {title: len(told) for title in titles if (told := blocks(re.escape(title)))}
    assert found == run
    assert set(re.findall(r"`make (\w+)`", TEXT)) == {"audit", "sbom"}


def test_every_link_leads_somewhere() -> None:
    for target, anchor in re.findall(r"\]\(([^)#]+)#?([^)]*)\)", TEXT):
        file = PAGE.parent / target
        file = file / "README.md" if file.is_dir() else file
        titles = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
        assert not anchor or anchor in {title.lower().replace(" ", "-") for title in titles}


def test_every_alert_is_named_with_its_page() -> None:
    linked = re.findall(r"\[(\w+)\]\(\.\./dashboards/README\.md#(stockassets\w+)\)", TEXT)
    names = [alert["alert"] for alert in ALERTS]
    assert linked == [(name.removeprefix("StockAssets"), name.lower()) for name in names]


# Dependencies


def locked(*, here: bool = False) -> dict[str, tuple[str, set[str]]]:
    """Version and hashes of each locked package, or of those that are for this machine."""
    found: dict[str, tuple[str, set[str]]] = {}
    for entry in re.split(r"\n(?=\w)", (ROOT / "requirements.lock").read_text()):
        words = entry.replace("\\\n", " ").split(" --hash=sha256:")
        if "==" in words[0]:
            told = Requirement(words[0].strip())
            (version,) = (each.version for each in told.specifier)
            if here and told.marker and not told.marker.evaluate():
                continue
            found[f"{told.name}=={version}"] = (version, {word.strip() for word in words[1:]})
    return found


def test_the_list_of_packages_has_each_with_version_and_hashes(tmp_path: Path) -> None:
    file = tmp_path / "sbom.json"
    done = made("sbom", f"SBOM={file}")
    assert done.returncode == 0, done.stderr  # which it is not where the schema is not kept to
    told = json.loads(file.read_text())
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.6")
    assert told["metadata"]["component"]["name"] == "stock-assets"
    listed = {
        f"{each['name']}=={each['version']}": (
            each["version"],
            {known["content"] for where in each["externalReferences"] for known in where["hashes"]},
        )
        for each in told["components"]
    }
    assert listed == locked()
    assert len(listed) > 200
    assert all(hashes for _, hashes in listed.values())
    assert all(each["purl"].startswith("pkg:pypi/") for each in told["components"])


@contextmanager
def osv(*with_holes: str) -> Iterator[tuple[str, set[str]]]:
    """The address of a service that speaks as OSV does, and what it was asked for."""
    asked = set()

    class Osv(Quiet):
        def do_POST(self) -> None:  # noqa: N802  as the server calls it
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            package = f"{query['package']['name']}=={query['version']}"
            asked.add(package)
            mended = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9999"}]}]
            hole = {"id": "HOLE-1", "affected": [{"package": query["package"], "ranges": mended}]}
            told = json.dumps({"vulns": [hole]} if package in with_holes else {}).encode()
            self.send_response(200 if self.path == "/v1/query" else 404)
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

    with served(Osv) as url:
        yield url, asked


OLD = "jinja2==2.4.1"  # has holes that all know of


def test_an_audit_asks_for_every_package_of_this_machine() -> None:
    with osv(OLD) as (url, asked):
        done = made("audit", f"OSV={url}")
    assert done.returncode == 0, done.stderr
    assert "No known vulnerabilities found" in done.stderr
    assert asked == {OLD, *locked(here=True)}


def test_an_audit_fails_and_names_what_has_a_hole() -> None:
    package = next(iter(locked(here=True)))
    with osv(OLD, package) as (url, _):
        done = made("audit", f"OSV={url}")
    assert done.returncode != 0
    told = [line.split() for line in done.stdout.splitlines()]
    assert [*package.split("=="), "HOLE-1", "9999"] in told


def test_an_audit_that_cannot_be_made_says_so() -> None:
    with osv() as (knows_nothing, _):
        for url in (knows_nothing, "https://nowhere.invalid"):
            done = made("audit", f"OSV={url}")
            assert done.returncode != 0
            assert f"{url} cannot be reached from here, or knows no hole" in done.stdout
            assert "nothing was audited" in done.stdout

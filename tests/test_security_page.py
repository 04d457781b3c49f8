"""The page on security: its promises are tests, its commands are run, its links lead somewhere."""

import json
import re
import subprocess
from pathlib import Path

from packaging.requirements import Requirement

from tests.conftest import ROOT
from tests.test_alerts import ALERTS
from tests.test_backup import PAGE, blocks

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


def locked() -> dict[str, tuple[str, set[str]]]:
    """Version and hashes of each locked package; what is locked twice is so for other machines."""
    found: dict[str, tuple[str, set[str]]] = {}
    for entry in re.split(r"\n(?=\w)", (ROOT / "requirements.lock").read_text()):
        words = entry.replace("\\\n", " ").split(" --hash=sha256:")
        if "==" in words[0]:
            told = Requirement(words[0].strip())
            (version,) = (each.version for each in told.specifier)
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


def test_an_audit_that_cannot_be_made_says_so() -> None:
    done = made("audit", "OSV=nowhere.invalid")
    assert done.returncode != 0
    assert "nowhere.invalid cannot be reached from here: nothing was audited" in done.stdout

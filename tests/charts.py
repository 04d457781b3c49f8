"""The official charts, filled in with our values by Helm itself, and what Kubernetes takes."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.conftest import ROOT

Object = dict[str, Any]

KUBERNETES = "1.33"
RELEASE = "stock-assets"  # and its namespace
PLATFORM = [f"helm-values/{name}.yaml" for name in ("dagster", "service", "database", "network")]
ADDRESSES = {
    "dagster": "https://dagster-io.github.io/helm",
    "grafana": "https://grafana-community.github.io/helm-charts",
    "kube-prometheus-stack": "https://prometheus-community.github.io/helm-charts",
    "prometheus": "https://prometheus-community.github.io/helm-charts",
    "prometheus-postgres-exporter": "https://prometheus-community.github.io/helm-charts",
}
# What the Dagster chart does with the manifests that it is given.
_EXTRA_MANIFESTS = """{{- range .Values.extraManifests }}
---
{{ tpl (toYaml .) $ }}
{{- end }}"""


class _Loader(yaml.CSafeLoader):
    """Reads YAML as Helm does, to whom a plain ``=`` is text like any other."""


_Loader.add_constructor("tag:yaml.org,2002:value", lambda _, node: node.value)


def official_chart(name: str, folder: Path) -> Path:
    """A copy of a chart that asks nothing of other machines.

    It is taken from STOCK_ASSETS_TEST_CHARTS, a folder with one for each chart, else from its
    official address; a test that cannot have it is skipped.
    """
    chart = folder / name
    if at_hand := os.environ.get("STOCK_ASSETS_TEST_CHARTS"):
        shutil.copytree(Path(at_hand) / name, chart)
    else:
        try:
            helm_python.pull(name, repo_url=ADDRESSES[name], untar=True, untar_dir=folder)
        except helm_python.HelmError as error:
            why = str(error).partition(":")[0]
            pytest.skip(f"no chart {name}, STOCK_ASSETS_TEST_CHARTS may name a folder; {why}")
    for schema in chart.rglob("values.schema.json"):
        schema.write_text(json.dumps(_closed(json.loads(schema.read_text()))))
    return chart


def _closed(schema: Any) -> Any:
    """A schema without what it would fetch from elsewhere."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if str(schema.get("$ref", "")).startswith("http"):
        return {}
    return {key: _closed(part) for key, part in schema.items()}


def values(*names: str, sets: str = "") -> Object:
    """Files of values of this project, each on top of those before it, as Helm does it.

    Args:
        names: Of the files.
        sets: What ``--set`` says on top of them.
    """
    together: Object = {}
    for name in names:
        together = merged(together, yaml.safe_load((ROOT / name).read_text()))
    return merged(together, helm_python.parse_set_string(sets))


def merged(below: Object, above: Mapping[str, Any]) -> Object:
    """Maps are merged; whatever else is above takes the place of what is below, lists too."""
    both = {
        key: merged(below[key], above[key])
        for key in below.keys() & above.keys()
        if isinstance(below[key], dict) and isinstance(above[key], dict)
    }
    return {**below, **above, **both}


def rendered(chart: Path, given: Object, *, release: str) -> list[Object]:
    """The objects that an installation of a chart would make, in a namespace named like it."""
    with helm_python.Chart.load(chart) as loaded:
        manifests = loaded.render(given, name=release, namespace=release)
    told = [
        found
        for name, text in manifests.items()
        if name.endswith((".yaml", ".yml"))
        for found in yaml.load_all(text, Loader=_Loader)
        if found
    ]
    return [found for listed in told for found in listed.get("items", [listed])]


def our_manifests(given: Object) -> "Objects":
    """Those of the platform's objects that are ours, where the Dagster chart is not at hand."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Chart.yaml").write_text("{ apiVersion: v2, name: ours, version: 0.0.0 }")
        (Path(folder) / "templates").mkdir()
        (Path(folder) / "templates" / "extra-manifests.yaml").write_text(_EXTRA_MANIFESTS)
        return Objects(rendered(Path(folder), given, release=RELEASE))


def custom_kinds(chart: Path) -> dict[tuple[str, str], Object]:
    """The schemas of the kinds that a chart brings, by version and kind."""
    kinds = {}
    for file in chart.rglob("crd-*.yaml"):
        told = yaml.load(file.read_text(), Loader=_Loader)["spec"]  # noqa: S506  a safe one
        for version in told["versions"]:
            key = f"{told['group']}/{version['name']}", told["names"]["kind"]
            kinds[key] = _strict(version["schema"]["openAPIV3Schema"])
    return kinds


def _strict(schema: Object) -> Object:
    """The schema, of an object without any field that is not told of."""
    if "properties" not in schema:
        return {k: _strict(v) if isinstance(v, dict) else v for k, v in schema.items()}
    fields = {name: _strict(field) for name, field in schema["properties"].items()}
    free = schema.get("x-kubernetes-preserve-unknown-fields", False)
    return schema | {"properties": fields, "additionalProperties": free}


def check(found: Object, kinds: Mapping[tuple[str, str], Object]) -> None:
    """Fail if Kubernetes would not take an object, or would drop a field of it."""
    if schema := kinds.get((found["apiVersion"], found["kind"])):
        schema = schema | {"properties": schema["properties"] | {"metadata": {"type": "object"}}}
        Draft202012Validator(schema).validate(found)
    else:
        kubernetes_validate.validate(found, KUBERNETES, strict=True)


def containers(pod: Object) -> list[Object]:
    """The containers of a pod, those first that are done before the others begin."""
    return [*pod.get("initContainers", []), *pod["containers"]]


class Objects(list[Object]):
    """Objects of one installation."""

    def of(self, kind: str) -> list[Object]:
        """Those of a kind."""
        return [found for found in self if found["kind"] == kind]

    def one(self, kind: str, name: str) -> Object:
        """The one of a kind that has this name."""
        (found,) = (found for found in self.of(kind) if found["metadata"]["name"] == name)
        return found

    def templates(self) -> Iterator[tuple[str, Object]]:
        """What each of them that makes pods is named, and what its pods are like."""
        for found in self:
            spec = found.get("spec", {})
            spec = spec.get("jobTemplate", {}).get("spec", spec)  # that of a CronJob
            if "template" in spec:
                yield f"{found['kind']} {found['metadata']['name']}", spec["template"]

    def pods(self) -> Iterator[tuple[str, Object]]:
        """The same, with the pods' spec."""
        for name, template in self.templates():
            yield name, template["spec"]

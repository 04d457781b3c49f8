"""Reads dashboards, and puts into their queries what Grafana would."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.conftest import ROOT

NAMES = ("forecasts", "platform")
WINDOWS = {"__rate_interval": "2m", "__interval": "30s", "__range": "1d"}

Variables = Mapping[str, str | list[str]]

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::(\w+))?\})")
_MACRO = re.compile(r"\$(\w+)\(([^)]*)\)")


@dataclass(frozen=True)
class Target:
    """A query.

    Attributes:
        title: Of its panel; of its variable or annotation, if it has none.
        kind: Whom it asks: prometheus or sql.
        expression: As it is written.
        shape: What is made of the answer: a table, time_series, or marks over time.
    """

    title: str
    kind: str
    expression: str
    shape: str


def dashboard(name: str) -> dict[str, Any]:
    """As it is kept in the repository."""
    document: dict[str, Any] = json.loads((ROOT / "dashboards" / f"{name}.json").read_text("utf-8"))
    return document


def panels(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All but rows."""
    return [panel for panel in document["panels"] if panel["type"] != "row"]


def targets(document: Mapping[str, Any]) -> Iterator[Target]:
    """Every query of a dashboard: of its panels, variables and annotations."""
    for panel in panels(document):
        for target in panel["targets"]:
            if "expr" in target:
                shape = target.get("format", "time_series")
                yield Target(panel["title"], "prometheus", target["expr"], shape)
            else:
                yield Target(panel["title"], "sql", target["rawSql"], target["format"])
    for variable in document["templating"]["list"]:
        if variable["type"] == "query":
            yield Target(variable["name"], "sql", variable["query"], "table")
    for annotation in document["annotations"]["list"]:
        if "expr" in annotation:
            yield Target(annotation["name"], "prometheus", annotation["expr"], "time_series")
        else:
            yield Target(annotation["name"], "sql", annotation["target"]["rawSql"], "marks")


def promql(expression: str, variables: Variables | None = None) -> str:
    """What Prometheus is asked; windows are those of `WINDOWS`, if no others are told."""
    return _filled(expression, {**WINDOWS, **(variables or {})})


def sql(expression: str, variables: Variables, since: datetime, until: datetime) -> str:
    """What PostgreSQL is asked for a time range."""
    first, last = (f"'{moment:%Y-%m-%dT%H:%M:%SZ}'" for moment in (since, until))
    macros = {
        "__timeFilter": "{} BETWEEN " + f"{first} AND {last}",
        "__timeFrom": first,
        "__timeTo": last,
    }
    return _MACRO.sub(
        lambda found: macros[found[1]].format(found[2]), _filled(expression, variables)
    )


def _filled(expression: str, variables: Variables) -> str:
    """With the values of variables; what is none is left, as Grafana does."""

    def put(found: re.Match[str]) -> str:
        value = variables.get(found[1] or found[2])
        if value is None:
            return found[0]
        values = [value] if isinstance(value, str) else value
        match found[3]:
            case "sqlstring":
                return ",".join("'" + one.replace("'", "''") + "'" for one in values)
            case None | "raw":
                return ",".join(values)
        raise ValueError(f"The format {found[3]} is not known here.")

    return _VARIABLE.sub(put, expression)

"""What there is to ask Prometheus for, and what an expression asks for."""

import re
from collections.abc import Iterator

from prometheus_client import Counter, Histogram

from stock_assets import metrics as ours

_STRING = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|`[^`]*`')
_TOKEN = re.compile(
    r"\bby\s*\((?P<by>[^)]*)\)\s*\("
    r"|(?P<open>\()"
    r"|(?P<close>\))"
    r"|\b(?P<series>stock_assets_\w+)(?:\s*\{(?P<matchers>[^}]*)\})?"
)
_WORD = re.compile(r"\w+")


def metrics() -> dict[str, frozenset[str]]:
    """Every series that the platform tells, with its labels."""
    found = {}
    for metric in vars(ours).values():
        match metric:
            case ours.Fact():
                found[metric.name] = frozenset(metric.labels)
            case Counter():
                found[f"{metric._name}_total"] = frozenset(metric._labelnames)
            case Histogram():
                labels = frozenset(metric._labelnames)
                found[f"{metric._name}_bucket"] = labels | {"le"}
                found[f"{metric._name}_sum"] = found[f"{metric._name}_count"] = labels
    return found


def used(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Each series of ours in an expression, with the labels that it is expected to have.

    They are those of its matchers and of every `by (...)` that stands before what it is in.
    """
    around: list[set[str]] = []
    for token in _TOKEN.finditer(_STRING.sub("", expression)):
        if token["close"]:
            around.pop()
        elif token["series"]:
            matched = set(_WORD.findall(token["matchers"] or ""))
            yield token["series"], matched.union(*around)
        else:
            around.append(set(_WORD.findall(token["by"] or "")))

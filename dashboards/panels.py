"""What both dashboards are made of: queries, scales, panels, and a grid without holes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from string import ascii_uppercase
from typing import Any, TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    prometheus,
    stat,
    table,
    timeseries,
    trend,
)
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BigValueColorMode,
    BigValueGraphMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    AnnotationContainer,
    AnnotationQuery,
    AnnotationTarget,
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DynamicConfigValue,
    FieldColorModeId,
    GridPos,
    Panel,
    RangeMap,
    RegexMap,
    RowPanel,
    SpecialValueMap,
    Threshold,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

PROMETHEUS = DataSourceRef(type_val="prometheus", uid="${prometheus}")
DATABASE = DataSourceRef(type_val="grafana-postgresql-datasource", uid="${database}")
COLUMNS = 24
GOOD, FAIR, BAD, PLAIN = "green", "orange", "red", "text"

Drawn = TypeVar("Drawn", timeseries.Panel, trend.Panel)
P = TypeVar("P", stat.Panel, timeseries.Panel, trend.Panel, table.Panel, bargauge.Panel)
Query = Builder[Any]


# Queries


def metric(expr: str, legend: str = "__auto") -> prometheus.Dataquery:
    """What Prometheus knows, over time."""
    return prometheus.Dataquery().expr(expr).legend_format(legend).range().datasource(PROMETHEUS)


def now(expr: str, legend: str = "__auto") -> prometheus.Dataquery:
    """What Prometheus knows at the end of the time range."""
    return metric(expr, legend).instant()


def labels(expr: str) -> prometheus.Dataquery:
    """The same, with a column for each label."""
    return now(expr).format(PromQueryFormat.TABLE)


@dataclass
class Sql(Builder[Dataquery], Dataquery):
    """A query of the prediction database, for which the SDK has no class."""

    sql: str
    format: str = "table"
    ref_id: str = "A"
    datasource: DataSourceRef = field(default_factory=lambda: DATABASE)

    def build(self) -> "Sql":
        """Itself."""
        return self

    def to_json(self) -> dict[str, object]:
        """As Grafana keeps it."""
        return {
            "datasource": self.datasource,
            "editorMode": "code",
            "format": self.format,
            "rawQuery": True,
            "rawSql": self.sql.strip(),
            "refId": self.ref_id,
        }


class _SqlTarget(AnnotationTarget):
    """Grafana takes any query here; the SDK knows only those of Grafana's own annotations."""

    def __init__(self, sql: str) -> None:
        super().__init__()
        self._query = Sql(sql, ref_id="Anno")

    def to_json(self) -> dict[str, object]:
        return self._query.to_json()


def events(name: str, color: str, sql: str) -> AnnotationQuery:
    """Marks over time that the database tells, by time and text."""
    return AnnotationQuery(name, DATABASE, icon_color=color, target=_SqlTarget(sql))


def marks(name: str, color: str, expr: str) -> AnnotationQuery:
    """Marks over time, where Prometheus finds something."""
    return AnnotationQuery(name, PROMETHEUS, icon_color=color, expr=expr)


# How numbers are shown


@dataclass(frozen=True)
class Scale:
    """What kind of number it is.

    Attributes:
        unit: Grafana's name of it.
        steps: From which value on it has which colour; the first has no value.
        decimals: As Grafana thinks best, if not told.
        least: The end of axes and bars.
        most: The other end.
        words: What to write for some values, and in which colour.
    """

    unit: str
    steps: Sequence[tuple[float | None, str]] = ((None, PLAIN),)
    decimals: int | None = None
    least: float | None = None
    most: float | None = None
    words: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def thresholds(self) -> builders.ThresholdsConfig:
        """What is good and what is bad."""
        return builders.ThresholdsConfig().steps(
            [Threshold(value, color) for value, color in self.steps]
        )

    @property
    def mappings(self) -> list[ValueMap | RangeMap | RegexMap | SpecialValueMap]:
        """The words."""
        words = {value: ValueMappingResult(*told) for value, told in self.words.items()}
        return [ValueMap(words)] if words else []

    def of_column(self) -> list[DynamicConfigValue]:
        """For a column of a table."""
        told = {
            "unit": self.unit,
            "decimals": self.decimals,
            "mappings": self.mappings or None,
            "thresholds": self.thresholds.build() if len(self.steps) > 1 else None,
            "custom.cellOptions": {"type": "color-text"} if len(self.steps) > 1 else None,
        }
        return [DynamicConfigValue(name, v) for name, v in told.items() if v is not None]


def clicked(title: str, url: str) -> DynamicConfigValue:
    """Where a click on a value leads."""
    return DynamicConfigValue("links", [{"title": title, "url": url}])


UP = Scale("none", ((None, BAD), (1, GOOD)), words={"0": ("down", BAD), "1": ("up", GOOD)})
COUNT = Scale("short", decimals=0, least=0)
FAULTS = Scale("short", ((None, GOOD), (1, BAD)), decimals=0, least=0)
SECONDS = Scale("s", least=0)
BYTES = Scale("bytes", least=0)
PRICE = Scale("none", decimals=2)
CHANGE = Scale("percentunit", decimals=2)
TEXT = Scale("string")
REJECTED = Scale("short", ((None, GOOD), (1, FAIR)), decimals=0, least=0)
CURRENT = Scale("percentunit", ((None, BAD), (0.9, FAIR), (0.99, GOOD)), least=0, most=1)
DATE = Scale("time:YYYY-MM-DD")  # of milliseconds

# Errors are divided by those of naive forecasts; coverage is the share of closes inside intervals.
ERROR = Scale("none", ((None, GOOD), (1.02, FAIR), (1.05, BAD)), decimals=4)
INSIDE_80 = Scale(
    "percentunit", ((None, BAD), (0.72, FAIR), (0.76, GOOD), (0.84, FAIR), (0.88, BAD)), decimals=1
)
INSIDE_95 = Scale(
    "percentunit", ((None, BAD), (0.91, FAIR), (0.93, GOOD), (0.97, FAIR), (0.99, BAD)), decimals=1
)
NAIVE = Scale("none", ((None, GOOD), (1, FAIR)), decimals=3)  # where lines are drawn, one is enough
AIM_80 = Scale("percentunit", ((None, FAIR), (0.8, GOOD)), decimals=1)
AIM_95 = Scale("percentunit", ((None, FAIR), (0.95, GOOD)), decimals=1)


# Panels


def stats(title: str, description: str, scale: Scale, *queries: Query, empty: str) -> stat.Panel:
    """A number, or a few."""
    fields = "/.*/" if scale.unit == TEXT.unit else ""
    panel = (
        stat.Panel()
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).fields(fields))
        .graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.VALUE)
    )
    return _told(panel, title, description, scale, queries, empty=empty)


def current(query: Query) -> stat.Panel:
    """The share of tickers whose forecast is current."""
    return stats(
        "Forecasts current",
        "Share of tickers whose forecast knows all their prices. It falls when prices come and is "
        "back at 100 % when the runs they start are done.",
        CURRENT,
        query,
        empty="no tickers yet",
    )


def quality(error: Query, inside_80: Query, inside_95: Query) -> list[stat.Panel]:
    """How what people were shown did, on the last days that are scored."""
    empty = "nothing scored yet"
    return [
        stats(
            "Error against naive",
            "Mean absolute error of what people were shown, over the last 60 scored days, divided "
            "by that of naive forecasts. Below 1 is better than naive; the champion should do no "
            "harm.",
            ERROR,
            error,
            empty=empty,
        ),
        stats(
            "Inside 80 %",
            "Share of closes inside the 80 % interval of what people were shown, over the last 60 "
            "scored days. Near 80 % is good: fewer are risks that were not told, more are "
            "intervals that are too wide.",
            INSIDE_80,
            inside_80,
            empty=empty,
        ),
        stats(
            "Inside 95 %",
            "The same of the 95 % interval. Near 95 % is good.",
            INSIDE_95,
            inside_95,
            empty=empty,
        ),
    ]


def lines(
    title: str, description: str, scale: Scale, *queries: Query, empty: str
) -> timeseries.Panel:
    """Over time; where there is good and bad, with the limits between."""
    panel = _drawn(timeseries.Panel())
    if len(scale.steps) > 1:
        limits = common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
        panel.thresholds_style(limits)
    return _told(panel, title, description, scale, queries, empty=empty)


def layers(
    title: str, description: str, scale: Scale, *queries: Query, empty: str
) -> timeseries.Panel:
    """Over time, one on top of the other."""
    stack = common.StackingConfig().mode(StackingMode.NORMAL).group("A")
    panel = lines(title, description, scale, *queries, empty=empty)
    return panel.stacking(stack).fill_opacity(40)


def path(  # noqa: PLR0913
    title: str, description: str, scale: Scale, query: Query, *, x: str, empty: str
) -> trend.Panel:
    """Over a number, whatever the time range of the dashboard."""
    panel = _drawn(trend.Panel()).x_field(x)
    return _told(panel, title, description, scale, [query], empty=empty)


def listing(  # noqa: PLR0913
    title: str,
    description: str,
    query: Query,
    columns: Mapping[str, Scale],
    *,
    scale: Scale = TEXT,
    empty: str,
) -> table.Panel:
    """A table, and what kind of numbers its columns are."""
    panel = _told(table.Panel().filterable(False), title, description, scale, [query], empty=empty)  # noqa: FBT003
    for name, kind in columns.items():
        panel.override_by_name(name, kind.of_column())
    return panel


def bars(title: str, description: str, scale: Scale, query: Query, *, empty: str) -> bargauge.Panel:
    """Numbers side by side."""
    panel = (
        bargauge.Panel()
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .orientation(VizOrientation.HORIZONTAL)
        .display_mode(BarGaugeDisplayMode.BASIC)
    )
    return _told(panel, title, description, scale, [query], empty=empty)


def _drawn(panel: Drawn) -> Drawn:
    legend = common.VizLegendOptions().show_legend(True).placement(LegendPlacement.BOTTOM)  # noqa: FBT003
    tooltip = common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
    panel.legend(legend.display_mode(LegendDisplayMode.LIST)).tooltip(tooltip)
    panel.color_scheme(builders.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
    return panel.line_width(1).show_points(VisibilityMode.NEVER)


def _told(  # noqa: PLR0913
    panel: P, title: str, description: str, scale: Scale, queries: Sequence[Query], *, empty: str
) -> P:
    panel.title(title).description(description).no_value(empty)
    panel.unit(scale.unit).thresholds(scale.thresholds).mappings(scale.mappings)
    if scale.decimals is not None:
        panel.decimals(scale.decimals)
    if scale.least is not None:
        panel.min(scale.least)
    if scale.most is not None:
        panel.max(scale.most)
    for name, query in zip(ascii_uppercase, queries, strict=False):
        target = query.build()
        target.ref_id = name
        panel.with_target(query).datasource(target.datasource)
    return panel


# Dashboards


@dataclass(frozen=True)
class Row:
    """A title, and lines of panels: the height of a line, then what shares its width."""

    title: str
    lines: Sequence[tuple[int, Sequence[Builder[Panel]]]]


def variables(*more: Builder[Any]) -> list[Builder[Any]]:
    """The two data sources, and others."""
    return [
        builders.DatasourceVariable("prometheus").label("Prometheus").type("prometheus"),
        builders.DatasourceVariable("database").label("Database").type(str(DATABASE.type_val)),
        *more,
    ]


def link(title: str, uid: str) -> builders.DashboardLink:
    """To another dashboard, with the same data sources."""
    here = builders.DashboardLink(title).type(DashboardLinkType.LINK).icon("dashboard")
    return here.url(f"/d/{uid}").include_vars(True)  # noqa: FBT003


def finished(
    dashboard: builders.Dashboard, content: Sequence[Row], annotations: Sequence[AnnotationQuery]
) -> Dashboard:
    """A dashboard with all its panels in their places."""
    built = dashboard.tags(["stock_assets"]).tooltip(DashboardCursorSync.CROSSHAIR).build()
    built.annotations = AnnotationContainer([*annotations])
    built.panels = []
    top = 0
    for row in content:
        place = GridPos(h=1, w=COLUMNS, x=0, y=top)
        built.panels.append(RowPanel(title=row.title, grid_pos=place))
        top += 1
        for height, panels in row.lines:
            edges = [COLUMNS * at // len(panels) for at in range(len(panels) + 1)]
            for panel, (left, right) in zip(panels, pairwise(edges), strict=True):
                shown = panel.build()
                shown.grid_pos = GridPos(h=height, w=right - left, x=left, y=top)
                built.panels.append(shown)
            top += height
    for number, each in enumerate(built.panels, 1):
        each.id_val = number
    return built

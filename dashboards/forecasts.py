"""What was forecast and what became of it: what the prediction database knows."""

from grafana_foundation_sdk.builders import common, timeseries, trend
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DynamicConfigValue,
    VariableOption,
    VariableRefresh,
)

from dashboards import queries
from dashboards.panels import (
    AIM_80,
    AIM_95,
    CHANGE,
    COUNT,
    DATABASE,
    DATE,
    ERROR,
    FAIR,
    GOOD,
    INSIDE_80,
    INSIDE_95,
    NAIVE,
    PRICE,
    REJECTED,
    TEXT,
    Row,
    Scale,
    Sql,
    clicked,
    current,
    events,
    finished,
    lines,
    link,
    listing,
    path,
    quality,
    stats,
    variables,
)

UID = "stock-assets-forecasts"
HERE = f"/d/{UID}?var-prometheus=${{prometheus}}&var-database=${{database}}"
THEN = f"{HERE}&from=${{__data.fields.since}}&to=${{__data.fields.until}}"
TICKER = (
    f"{HERE}&var-ticker=${{__value.raw}}&var-model=${{model}}&var-h=${{h}}&${{__url_time_range}}"
)
NOT_NOW = "nothing scored in this time; click on Newest prices"


def dashboard() -> Dashboard:
    """The whole of it."""
    return finished(
        builders.Dashboard("stock_assets: forecasts")
        .uid(UID)
        .description("What is forecast, what was, and what became of it.")
        .time("now-180d", "now")
        .timezone("utc")  # days are days, wherever they are looked at
        .variables(variables(SECTOR, ONE_TICKER, MODEL, HORIZON))
        .link(link("Platform", "stock-assets-platform")),
        [ALL_TICKERS, ONE, OVER_TIME, BY_MODEL, CHANGES],
        [
            events("Trainings", "blue", queries.TRAININGS),
            events("Champions", "purple", queries.CHAMPIONS),
        ],
    )


def choice(name: str, label: str, description: str, sql: str) -> builders.QueryVariable:
    """A variable with what the database offers."""
    offered = builders.QueryVariable(name).label(label).description(description)
    return (
        offered.query(sql.strip()).datasource(DATABASE).refresh(VariableRefresh.ON_DASHBOARD_LOAD)
    )


SECTOR = (
    choice(
        "sector", "Sector", "Which tickers can be chosen, and are listed below.", queries.SECTORS
    )
    .include_all(True)  # noqa: FBT003
    .multi(True)  # noqa: FBT003
    .current(VariableOption(text=["All"], value=["$__all"]))
)
ONE_TICKER = choice("ticker", "Ticker", "Whose prices and forecasts are drawn.", queries.TICKERS)
MODEL = choice(
    "model",
    "Model",
    "Whose forecasts; champion is what people were shown, whichever model told it.",
    queries.MODELS,
).current(VariableOption(text="champion", value="champion"))
HORIZON = (
    builders.CustomVariable("h")
    .label("Days ahead")
    .description("Which forecasts are held against what came.")
    .values(",".join(map(str, range(1, 11))))
    .current(VariableOption(text="10", value="10"))
)

ALL_TICKERS = Row(
    "All tickers",
    [
        (
            4,
            [
                current(Sql(queries.CURRENT)),
                stats(
                    "Newest prices",
                    "The newest day that any ticker has a price of. Where it lies before the time "
                    "range, click on it to see the 180 days that end with it.",
                    TEXT,
                    Sql(queries.NEWEST_PRICES),
                    empty="no prices yet",
                )
                .reduce_options(common.ReduceDataOptions().values(True).fields("day"))  # noqa: FBT003
                .override_by_name("day", [clicked("See the 180 days before it", THEN)]),
                stats(
                    "Champion",
                    "The model whose forecasts people are shown, and since when. Tickers with a "
                    "short history keep the naive one.",
                    TEXT,
                    Sql(queries.CHAMPION),
                    empty="none chosen yet",
                ),
                *quality(
                    *(Sql(queries.live(name)) for name in ("error", "inside_80", "inside_95"))
                ),
            ],
        )
    ],
)


def banded(panel: trend.Panel) -> trend.Panel:
    """Two intervals are areas around the forecast; days are written below."""
    panel.override_by_name("date", DATE.of_column())
    for level, opacity in ((95, 10), (80, 20)):
        edge = [colored("blue"), DynamicConfigValue("custom.lineWidth", 0)]
        unnamed = {"legend": True, "tooltip": False, "viz": False}
        area = [
            DynamicConfigValue("custom.fillBelowTo", f"{level} % from"),
            DynamicConfigValue("custom.fillOpacity", opacity),
        ]
        panel.override_by_name(
            f"{level} % from", [*edge, DynamicConfigValue("custom.hideFrom", unnamed)]
        )
        panel.override_by_name(f"{level} % to", [*edge, *area])
    for name, color in (("close", "text"), ("forecast", "blue")):
        width = DynamicConfigValue("custom.lineWidth", 2)
        panel.override_by_name(name, [colored(color), width])
    return panel


def colored(color: str) -> DynamicConfigValue:
    """Always in this colour."""
    return DynamicConfigValue("color", {"mode": "fixed", "fixedColor": color})


ONE = Row(
    "$ticker",
    [
        (
            4,
            [
                stats(
                    "Last close",
                    "The newest close of the ticker.",
                    PRICE,
                    Sql(queries.LAST_CLOSE),
                    empty="no prices",
                ),
                stats(
                    "Close in 10 trading days",
                    "The end of the newest forecast, by the model that is chosen above.",
                    PRICE,
                    Sql(queries.newest("told.close")),
                    empty="no forecast",
                ),
                stats(
                    "Change in 10 trading days",
                    "The same against the last close that the forecast knew; nothing where it is "
                    "the naive one.",
                    CHANGE,
                    Sql(queries.newest("told.close / last.close - 1 AS change")),
                    empty="no forecast",
                ),
                stats(
                    "Width of the 80 % interval",
                    "In 10 trading days, as a share of the last close. Wide is not bad: it is "
                    "what the ticker moves.",
                    CHANGE,
                    Sql(queries.newest("(hi_80 - lo_80) / last.close AS width")),
                    empty="no forecast",
                ),
                stats(
                    "Told",
                    "The last day of prices that the newest forecast knows, and the model.",
                    TEXT,
                    Sql(queries.newest("as_of::text AS day, model")),
                    empty="no forecast",
                ),
                stats(
                    "Current",
                    "Whether the newest forecast knows all prices of the ticker.",
                    Scale("string", words={"yes": ("yes", GOOD), "no": ("no", FAIR)}),
                    Sql(queries.IS_CURRENT),
                    empty="no prices",
                ),
            ],
        ),
        (
            11,
            [
                banded(
                    path(
                        "Closes and the newest forecast",
                        "The last 120 closes, then the forecast inside its 80 % and 95 % "
                        "intervals, by the model that is chosen above. It ends with the newest "
                        "prices, whatever the time range.",
                        PRICE,
                        Sql(queries.PATH),
                        x="date",
                        empty="no prices",
                    )
                ),
                banded(
                    path(
                        "What was told $h days ahead against what came",
                        "Closes, and what was forecast of each of these days so long before, "
                        "inside its intervals: the last 250 forecasts, whatever the time range. "
                        "About one close in five should lie outside the inner band, and one in "
                        "twenty outside both.",
                        PRICE,
                        Sql(queries.OUTCOMES),
                        x="date",
                        empty="no forecast",
                    )
                ),
            ],
        ),
        (
            10,
            [
                listing(
                    "The next ten days",
                    "The newest forecast, by the model that is chosen above, day by day.",
                    Sql(queries.DAYS),
                    {
                        "forecast": PRICE,
                        "change": CHANGE,
                        **dict.fromkeys(("95 % from", "95 % to", "80 % from", "80 % to"), PRICE),
                    },
                    empty="no forecast",
                ),
                listing(
                    "Models of $ticker",
                    "Those of its present training: live over the last 60 scored days, and in "
                    "their backtest. Errors are divided by those of naive forecasts, so that "
                    "below 1 is better. With weight 0 a model tells what naive tells, as its "
                    "predictions were worth nothing.",
                    Sql(queries.MODELS_OF_TICKER),
                    {
                        **dict.fromkeys(("live", "backtest", "10 days ahead"), ERROR),
                        "inside 80 %": INSIDE_80,
                        "inside 95 %": INSIDE_95,
                        "weight": Scale("none", decimals=2),
                        "days": COUNT,
                    },
                    empty="not trained yet",
                ),
            ],
        ),
    ],
)


def over_time(title: str, description: str, figure: str, scale: Scale) -> list[timeseries.Panel]:
    """A figure of each model, and of the chosen one by how far ahead it was told."""
    days = "CASE h WHEN 1 THEN '1 day' ELSE h || ' days' END"
    some = "h IN (1, 5, 10) AND model = ${model:sqlstring}"
    return [
        lines(
            f"{title}, by model",
            f"{description} All days ahead together; champion is what people were shown.",
            scale,
            Sql(queries.rolling(figure, "model", "true"), "time_series"),
            empty=NOT_NOW,
        ),
        lines(
            f"{title}, by days ahead",
            f"{description} Of the model that is chosen above.",
            scale,
            Sql(queries.rolling(figure, days, some), "time_series"),
            empty=NOT_NOW,
        ),
    ]


OVER_TIME = Row(
    "What became of forecasts",
    [
        (
            8,
            over_time(
                "Error against naive",
                "Mean absolute error over 20 scored days, divided by that of naive forecasts. The "
                "line is naive, and below it is better.",
                "sum(error) OVER w / nullif(sum(naive_error) OVER w, 0)",
                NAIVE,
            ),
        ),
        *(
            (
                8,
                over_time(
                    f"Inside {level} %",
                    f"Share of closes of 20 scored days inside the {level} % interval. It should "
                    "stay near the line; in a storm it dips.",
                    f"sum(inside_{level}) OVER w / sum(forecasts) OVER w",
                    aim,
                ),
            )
            for level, aim in ((80, AIM_80), (95, AIM_95))
        ),
    ],
)

BY_MODEL = Row(
    "Models and sectors",
    [
        (
            10,
            [
                listing(
                    "Models",
                    "Live over the last 60 scored days, all days ahead together, and in the "
                    "backtests of the present models of all tickers. Errors are divided by those "
                    "of naive forecasts, so that below 1 is better; champion is what people were "
                    "shown.",
                    Sql(queries.LEADERBOARD),
                    {
                        **dict.fromkeys(("live", "backtest"), ERROR),
                        **dict.fromkeys(("live in 80 %", "backtest in 80 %"), INSIDE_80),
                        **dict.fromkeys(("live in 95 %", "backtest in 95 %"), INSIDE_95),
                        **dict.fromkeys(("scored", "tickers"), COUNT),
                    },
                    empty="nothing trained yet",
                ),
                listing(
                    "Sectors",
                    "What the newest forecasts say 10 days ahead, on average: change and width of "
                    "the 80 % interval, of the last close. Then the backtests of the present "
                    "models: error, divided by that of naive forecasts, and closes inside. Of the "
                    "model that is chosen above, or the present champion.",
                    Sql(queries.BY_SECTOR),
                    {
                        "tickers": COUNT,
                        **dict.fromkeys(("change", "width"), CHANGE),
                        "error": ERROR,
                        "inside 80 %": INSIDE_80,
                        "inside 95 %": INSIDE_95,
                    },
                    empty="no tickers yet",
                ),
            ],
        )
    ],
)

CHANGES = Row(
    "What changed",
    [
        (
            10,
            [
                listing(
                    "Largest changes of forecasts",
                    "What is forecast for 10 days ahead, against the forecast before, by the "
                    "model that is chosen above; moved is how much the forecast close has. Naive "
                    "forecasts never see a change, and are in the order of how much they moved. "
                    "Click on a ticker to see it.",
                    Sql(queries.CHANGES),
                    dict.fromkeys(("change", "before", "difference", "moved"), CHANGE),
                    empty="nothing forecast twice yet",
                ).override_by_name("ticker", [clicked("See ${__value.text}", TICKER)]),
                listing(
                    "Drops",
                    "The newest files. Rows read are rows accepted, collapsed and rejected; a "
                    "refused file is no CSV of prices.",
                    Sql(queries.NEWEST_DROPS),
                    {
                        **dict.fromkeys(("read", "accepted", "collapsed", "tickers"), COUNT),
                        "rejected": REJECTED,
                    },
                    empty="none yet",
                ),
            ],
        ),
        (
            8,
            [
                listing(
                    "Champions",
                    "Whose forecasts people are shown, since when and why; the newest first. One "
                    "that is pinned was chosen by a person, and stays until it is released.",
                    Sql(queries.NEWEST_CHAMPIONS),
                    {},
                    empty="none chosen yet",
                ),
                listing(
                    "Trainings",
                    "Of the models of all tickers together; the newest one forecasts.",
                    Sql(queries.NEWEST_TRAININGS),
                    dict.fromkeys(("tickers", "days"), COUNT),
                    empty="not trained yet",
                ),
            ],
        ),
    ],
)

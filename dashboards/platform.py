"""Whether the platform does its work: what Prometheus knows of it."""

from collections.abc import Mapping, Sequence

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import table, timeseries
from grafana_foundation_sdk.models.dashboard import Dashboard, DataTransformerConfig

from dashboards.panels import (
    AIM_80,
    AIM_95,
    BAD,
    BYTES,
    COUNT,
    CURRENT,
    FAIR,
    FAULTS,
    GOOD,
    NAIVE,
    REJECTED,
    SECONDS,
    UP,
    Row,
    Scale,
    bars,
    current,
    finished,
    labels,
    layers,
    lines,
    link,
    listing,
    marks,
    metric,
    now,
    quality,
    stats,
    variables,
)

DAY = 86400
SERVICE = 'job="stock_assets_api"'
DISKS = 'fstype!~"tmpfs|overlay|squashfs|ramfs|fuse.*"'
DATABASES = 'datname!~"template.*|"'
PER_SECOND = Scale("cps", least=0)
REQUESTS = Scale("reqps", least=0)
CORES = Scale("none", decimals=2, least=0)
USED = Scale("percentunit", ((None, GOOD), (0.8, FAIR), (0.9, BAD)), least=0, most=1)
FREE = Scale("percentunit", ((None, BAD), (0.1, FAIR), (0.2, GOOD)), least=0, most=1)
FAILED = Scale("percentunit", ((None, GOOD), (0.05, BAD)), least=0, most=1)


def dashboard() -> Dashboard:
    """The whole of it."""
    return finished(
        builders.Dashboard("stock_assets: platform")
        .uid("stock-assets-platform")
        .description("Whether prices come in, forecasts go out and everything between them runs.")
        .time("now-24h", "now")
        .refresh("1m")
        .variables(variables())
        .link(link("Forecasts", "stock-assets-forecasts")),
        [NOW, PIPELINE, QUALITY, FORECASTS, API, DAGSTER, RESOURCES],
        [TRAININGS],
    )


def series(name: str, having: Mapping[str, str]) -> str:
    """A metric of ours, with these labels."""
    chosen = ", ".join(f'{label}="{value}"' for label, value in having.items())
    return f"stock_assets_{name}{{{chosen}}}" if chosen else f"stock_assets_{name}"


def fact(name: str, *by: str, **having: str) -> str:
    """What the database or Dagster tell; all replicas tell the same, so the largest is it."""
    return f"max{grouped(by)} ({series(name, having)})"


def risen(name: str, *by: str, **having: str) -> str:
    """What has come to it in the time range: exact, and right across replicas that come and go."""
    least = f"min_over_time({series(name, having)}[$__range])"
    return f"{fact(name, *by, **having)} - min{grouped(by)} ({least})"


def grouped(by: Sequence[str]) -> str:
    """By which labels."""
    return f" by ({', '.join(by)})" if by else ""


TRAININGS = marks(
    "Trainings",
    "blue",
    f"{fact('market_model_timestamp_seconds')}"
    " > max(stock_assets_market_model_timestamp_seconds offset $__interval)",
)

NOW = Row(
    "Now",
    [
        (
            4,
            [
                stats(
                    "Service",
                    "Share of the service's processes that answer Prometheus. Below 100 % one is "
                    "down; without a value Prometheus scrapes none.",
                    CURRENT,
                    now(f"avg(up{{{SERVICE}}})"),
                    empty="not scraped",
                ),
                stats(
                    "Database and Dagster",
                    "Whether both have told the service their facts within the last minute. Where "
                    "one is down, the panels of its facts are empty.",
                    UP,
                    now("min by (source) (stock_assets_source_up)", "{{source}}"),
                    empty="not scraped",
                ),
                current(
                    now(
                        f"{fact('tickers', forecast='current')}"
                        f" / (sum({fact('tickers', 'forecast')}) > 0)"
                    )
                ),
                stats(
                    "Sessions without prices",
                    "Trading days that have passed since the newest price, 10 at most. One is "
                    "usual until the day's prices come; more is a feed that has stopped.",
                    Scale("short", ((None, GOOD), (2, FAIR), (3, BAD)), decimals=0),
                    now(fact("sessions_without_prices")),
                    empty="no prices",
                ),
                stats(
                    "Failed runs",
                    "Runs of Dagster that failed in the time range and were not tried anew. None "
                    "is good; what each one says is in Dagster.",
                    FAULTS,
                    now(f"sum({risen('runs_ended_total', 'dagster_job', status='failure')})"),
                    empty="not known",
                ),
                stats(
                    "Queue",
                    "Runs that wait for a place. Many are usual while a large drop is worked on, "
                    "and none should wait for hours.",
                    Scale("short", ((None, GOOD), (50, FAIR), (500, BAD)), decimals=0),
                    now(f"sum({fact('runs', 'dagster_job', status='queued')})"),
                    empty="not known",
                ),
                stats(
                    "Failed checks",
                    "Asset checks that failed when they were last made. Those of severity error "
                    "have ended a run; the others warn. They are listed below.",
                    Scale("short", ((None, GOOD), (1, FAIR)), decimals=0),
                    now(f"sum({fact('check_failed', 'asset', 'check')})"),
                    empty="none made",
                ),
            ],
        )
    ],
)

ROWS = ("read", "accepted", "collapsed", "rejected")
PIPELINE = Row(
    "Pipeline",
    [
        (
            4,
            [
                stats(
                    "Newest drop",
                    "How long ago the newest accepted drop came. On trading days there should be "
                    "one within a day.",
                    Scale("s", ((None, GOOD), (2 * DAY, FAIR), (4 * DAY, BAD))),
                    now(f"time() - {fact('last_drop_timestamp_seconds')}"),
                    empty="none yet",
                ),
                *(
                    stats(
                        f"Rows {kind}",
                        f"{told} In the time range.",
                        REJECTED if kind == "rejected" else COUNT,
                        now(risen(f"rows_{kind}_total")),
                        empty="none yet",
                    )
                    for kind, told in {
                        "read": "Rows of accepted drops: accepted, collapsed and rejected in sum.",
                        "accepted": "Rows that were taken into the prices.",
                        "collapsed": "Rows that repeat another one of their drop. They do no harm.",
                        "rejected": "Rows that break a rule. None is good; why is told below.",
                    }.items()
                ),
            ],
        ),
        (
            8,
            [
                lines(
                    "Drops by status",
                    "All files that were ever dropped. Registered ones wait, and should not for "
                    "long; refused ones are no CSV of prices.",
                    COUNT,
                    metric(fact("drops", "status"), "{{status}}"),
                    empty="no drops yet",
                ),
                layers(
                    "Tickers by forecast",
                    "Current forecasts know all prices of their ticker, stale ones do not, and of "
                    "a new ticker one is missing. Stale and missing ones should go away by "
                    "themselves.",
                    COUNT,
                    metric(fact("tickers", "forecast"), "{{forecast}}"),
                    empty="no tickers yet",
                ),
                layers(
                    "Tickers by champion",
                    "By which model the newest forecast is that people are shown. Tickers with a "
                    "short history keep the naive one whoever is champion.",
                    COUNT,
                    metric(fact("champion_tickers", "model"), "{{model}}"),
                    empty="no forecasts yet",
                ),
            ],
        ),
        (
            8,
            [
                lines(
                    "Rows",
                    "How fast rows of accepted drops come in. A spike is a drop; rejected ones "
                    "should stay at zero.",
                    PER_SECOND,
                    *(
                        metric(f"max(rate(stock_assets_rows_{kind}_total[$__rate_interval]))", kind)
                        for kind in ROWS
                    ),
                    empty="no drops yet",
                ),
                bars(
                    "Age of assets",
                    "How long ago any partition of an asset was last made. Forecasts are a few "
                    "days old at most, models a week; older is a schedule that does not run.",
                    Scale("s", ((None, GOOD), (4 * DAY, FAIR), (8 * DAY, BAD)), least=0),
                    now(
                        "sort_desc(time() - "
                        f"{fact('asset_materialization_timestamp_seconds', 'asset')})",
                        "{{asset}}",
                    ),
                    empty="nothing made yet",
                ),
                lines(
                    "Duration of steps",
                    "What making an asset took in the last run that made it. It grows with the "
                    "tickers of a range; a jump at the same number of tickers is worth a look.",
                    SECONDS,
                    metric(fact("step_duration_seconds", "asset"), "{{asset}}"),
                    empty="nothing made yet",
                ),
            ],
        ),
    ],
)


def without_time(panel: table.Panel) -> table.Panel:
    """Leave out what Prometheus adds to labels."""
    hidden = {"excludeByName": {"Time": True, "Value": True}}
    return panel.with_transformation(DataTransformerConfig("organize", options=hidden))


QUALITY = Row(
    "Data quality",
    [
        (
            8,
            [
                bars(
                    "Rejections by reason",
                    "Rows of all accepted drops that break each rule; one that breaks several "
                    "counts for each. The service tells them of each drop.",
                    Scale("short", ((None, FAIR),), decimals=0, least=0),
                    now(f"topk(15, {fact('row_rejections_total', 'reason')})", "{{reason}}"),
                    empty="none rejected",
                ),
                without_time(
                    listing(
                        "Failed checks",
                        "Asset checks that failed when they were last made. An error has ended a "
                        "run before it wrote anything; a warning has not.",
                        labels(f"{fact('check_failed', 'asset', 'check', 'severity')} == 1"),
                        {
                            "severity": Scale(
                                "string",
                                words={"error": ("error", BAD), "warning": ("warning", FAIR)},
                            )
                        },
                        empty="no check fails",
                    )
                ),
                lines(
                    "Tickers behind",
                    "Tickers without a price of the newest day that any ticker has. Few are "
                    "usual, of delisted ones; a jump is a feed that lacks some.",
                    COUNT,
                    metric(fact("tickers_behind"), "behind"),
                    empty="no prices yet",
                ),
            ],
        )
    ],
)


FORECASTS = Row(
    "Forecast quality",
    [
        (
            4,
            [
                *quality(
                    now(fact("live_error_ratio", model="champion")),
                    *(
                        now(fact("interval_coverage_ratio", model="champion", interval=interval))
                        for interval in ("80", "95")
                    ),
                ),
                stats(
                    "Scored days",
                    "Days that these figures are of, 60 at most. Of a few days they say little.",
                    Scale("short", ((None, FAIR), (20, GOOD)), decimals=0),
                    now(fact("scored_sessions")),
                    empty="nothing scored yet",
                ),
                stats(
                    "Models of all tickers",
                    "How long ago the models of all tickers together were trained. They are "
                    "trained every week.",
                    Scale("s", ((None, GOOD), (8 * DAY, FAIR), (15 * DAY, BAD))),
                    now(f"time() - {fact('market_model_timestamp_seconds')}"),
                    empty="never",
                ),
                stats(
                    "Forecasts stored",
                    "A row for each ticker, day, horizon and model; estimated on PostgreSQL.",
                    COUNT,
                    now(fact("forecasts")),
                    empty="none yet",
                ),
            ],
        ),
        (
            8,
            [
                lines(
                    "Error against naive, live",
                    "Mean absolute error of forecasts of the last 60 scored days, divided by that "
                    "of naive forecasts. The line is naive; champion is what people were shown. A "
                    "model above it in production does not become champion.",
                    NAIVE,
                    metric(fact("live_error_ratio", "model"), "{{model}}"),
                    empty="nothing scored yet",
                ),
                lines(
                    "Error against naive, backtests",
                    "The same in backtests of the present models, as a mean over tickers. Live "
                    "errors far above it mean that the market is another than it was.",
                    NAIVE,
                    metric(fact("backtest_error_ratio", "model"), "{{model}}"),
                    empty="nothing backtested yet",
                ),
            ],
        ),
        (
            8,
            [
                lines(
                    f"Closes inside the {aim} % interval",
                    "Share of closes of the last 60 scored days inside it. The line is the share "
                    "that was promised. In a storm it dips, and comes back within days.",
                    scale,
                    metric(
                        fact("interval_coverage_ratio", "model", interval=str(aim)), "{{model}}"
                    ),
                    empty="nothing scored yet",
                )
                for aim, scale in ((80, AIM_80), (95, AIM_95))
            ],
        ),
    ],
)


def latency(quantile: float) -> timeseries.Panel:
    """How long requests take."""
    return lines(
        f"Latency p{quantile * 100:.0f}",
        f"{quantile:.0%} of requests of a route were answered faster. A forecast takes "
        "milliseconds; what is asked of Dagster takes longer. The line is half a second.",
        Scale("s", ((None, GOOD), (0.5, FAIR)), least=0),
        metric(
            f"histogram_quantile({quantile}, sum by (le, route) "
            "(rate(stock_assets_api_request_duration_seconds_bucket[$__rate_interval])))",
            "{{route}}",
        ),
        empty="no requests",
    )


API = Row(
    "API",
    [
        (
            8,
            [
                layers(
                    "Requests by route",
                    "Requests a second that the service answers.",
                    REQUESTS,
                    metric(
                        "sum by (route) (rate(stock_assets_api_requests_total[$__rate_interval]))",
                        "{{route}}",
                    ),
                    empty="no requests",
                ),
                layers(
                    "Requests by status",
                    "The same by what was answered. 2xx is success; many 4xx are a caller that is "
                    "mistaken or over its limit, 5xx are ours.",
                    REQUESTS,
                    metric(
                        "sum by (status) (rate(stock_assets_api_requests_total[$__rate_interval]))",
                        "{{status}}",
                    ),
                    empty="no requests",
                ),
                lines(
                    "Share of 5xx",
                    "Requests of a route that failed through no fault of the caller. Zero is "
                    "good; the line is 5 %.",
                    FAILED,
                    metric(
                        "sum by (route) (rate("
                        'stock_assets_api_requests_total{status=~"5.."}[$__rate_interval]))'
                        " / sum by (route) "
                        "(rate(stock_assets_api_requests_total[$__rate_interval]))",
                        "{{route}}",
                    ),
                    empty="none failed",
                ),
            ],
        ),
        (8, [latency(0.5), latency(0.95), latency(0.99)]),
        (
            8,
            [
                lines(
                    "Uploads",
                    "Bytes of CSVs that are uploaded and taken, a second.",
                    Scale("Bps", least=0),
                    metric(
                        "sum(rate(stock_assets_api_uploaded_bytes_total[$__rate_interval]))",
                        "uploads",
                    ),
                    empty="no uploads",
                ),
                lines(
                    "Trainings asked for",
                    "Tickers whose training was asked for, a second.",
                    PER_SECOND,
                    metric(
                        "sum(rate(stock_assets_api_trainings_total[$__rate_interval]))", "trainings"
                    ),
                    empty="none asked for",
                ),
                lines(
                    "Reading of facts",
                    "What it took the service to read the facts of the database and of Dagster "
                    "the last time. Seconds are a source under load.",
                    Scale("s", ((None, GOOD), (5, FAIR)), least=0),
                    metric(fact("source_read_duration_seconds", "source"), "{{source}}"),
                    empty="not scraped",
                ),
            ],
        ),
    ],
)

DAGSTER = Row(
    "Dagster",
    [
        (
            8,
            [
                layers(
                    "Runs queued and running",
                    "By job. A queue that grows while nothing runs is a daemon that is down or "
                    "workers that do not start.",
                    COUNT,
                    metric(fact("runs", "dagster_job", "status"), "{{dagster_job}} {{status}}"),
                    empty="not known",
                ),
                lines(
                    "Oldest queued run",
                    "How long the run waits that waits longest. Minutes are usual; the line is "
                    "half an hour.",
                    Scale("s", ((None, GOOD), (1800, BAD)), least=0),
                    metric(
                        "time() - min(stock_assets_oldest_queued_run_timestamp_seconds)", "waits"
                    ),
                    empty="none waits",
                ),
                bars(
                    "Runs that ended",
                    "In the time range, by job and how they ended. Retried ones failed for want "
                    "of a worker and were tried anew; failures want a look.",
                    Scale("short", ((None, "blue"),), decimals=0, least=0),
                    now(
                        risen("runs_ended_total", "dagster_job", "status"),
                        "{{dagster_job}} {{status}}",
                    ),
                    empty="not known",
                ),
            ],
        ),
        (
            8,
            [
                bars(
                    "Last tick of automations",
                    "How long ago a sensor or schedule last did its work or found none. Sensors "
                    "tick every minute or so, schedules every night or week; one that does not "
                    "any more fails or is stopped.",
                    Scale("s", ((None, GOOD), (4 * DAY, FAIR), (8 * DAY, BAD)), least=0),
                    now(
                        "sort_desc(time() - max by (automation) "
                        '(stock_assets_last_tick_timestamp_seconds{status!="failure"}))',
                        "{{automation}}",
                    ),
                    empty="none yet",
                ),
                lines(
                    "Last failed tick",
                    "How long ago a sensor or schedule last failed. A line that stays near zero "
                    "fails all the time.",
                    SECONDS,
                    metric(
                        "time() - max by (automation) "
                        '(stock_assets_last_tick_timestamp_seconds{status="failure"})',
                        "{{automation}}",
                    ),
                    empty="none has failed",
                ),
                stats(
                    "Daemons",
                    "Whether each daemon that is needed gave a sign of life in time.",
                    UP,
                    now("min by (daemon) (stock_assets_daemon_healthy)", "{{daemon}}"),
                    empty="not known",
                ),
                lines(
                    "Heartbeats of daemons",
                    "How long ago each daemon gave a sign of life. The line is ten minutes, "
                    "after which somebody is told.",
                    Scale("s", ((None, GOOD), (600, BAD)), least=0),
                    metric(
                        f"time() - {fact('daemon_heartbeat_timestamp_seconds', 'daemon')}",
                        "{{daemon}}",
                    ),
                    empty="not known",
                ),
            ],
        ),
    ],
)

RESOURCES = Row(
    "Resources",
    [
        (
            8,
            [
                lines(
                    "CPU of the service",
                    "Cores that each process uses. One is all that a process can use.",
                    CORES,
                    metric(
                        f"rate(process_cpu_seconds_total{{{SERVICE}}}[$__rate_interval])",
                        "{{instance}}",
                    ),
                    empty="not scraped",
                ),
                lines(
                    "Memory of the service",
                    "Resident memory of each process. It is near 90 MB under load and should not "
                    "grow from day to day.",
                    BYTES,
                    metric(f"process_resident_memory_bytes{{{SERVICE}}}", "{{instance}}"),
                    empty="not scraped",
                ),
                lines(
                    "Free on the volumes",
                    "Share that is free where drops and the store lie. Below 10 % make room, or "
                    "runs fail.",
                    FREE,
                    metric(
                        f"{fact('volume_free_bytes', 'volume')}"
                        f" / {fact('volume_size_bytes', 'volume')}",
                        "{{volume}}",
                    ),
                    empty="not scraped",
                ),
            ],
        ),
        (
            8,
            [
                lines(
                    "CPU of machines",
                    "Share of all cores that is in use. Trainings use all there is; all day long "
                    "is too small a machine.",
                    USED,
                    metric(
                        "1 - avg by (instance) "
                        '(rate(node_cpu_seconds_total{mode="idle"}[$__rate_interval]))',
                        "{{instance}}",
                    ),
                    empty="no node exporter",
                ),
                lines(
                    "Memory of machines",
                    "Share that is in use. Near 100 % runs are killed.",
                    USED,
                    metric(
                        "1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes",
                        "{{instance}}",
                    ),
                    empty="no node exporter",
                ),
                lines(
                    "Disks of machines",
                    "Share that is in use, by where they are mounted.",
                    USED,
                    metric(
                        "1 - max by (instance, mountpoint) "
                        f"(node_filesystem_avail_bytes{{{DISKS}}})"
                        " / max by (instance, mountpoint) "
                        f"(node_filesystem_size_bytes{{{DISKS}}})",
                        "{{instance}} {{mountpoint}}",
                    ),
                    empty="no node exporter",
                ),
            ],
        ),
        (
            8,
            [
                stats(
                    "PostgreSQL",
                    "Whether the exporter reaches the server.",
                    UP,
                    now("min by (instance) (pg_up)", "{{instance}}"),
                    empty="no PostgreSQL exporter",
                ),
                lines(
                    "Connections",
                    "To each database. The server takes 100 if nobody told it otherwise; every "
                    "worker holds a few.",
                    COUNT,
                    metric(
                        f"sum by (datname) (pg_stat_database_numbackends{{{DATABASES}}})",
                        "{{datname}}",
                    ),
                    empty="no PostgreSQL exporter",
                ),
                lines(
                    "Size of databases",
                    "It grows by a constant amount a trading day, about the forecasts and scores "
                    "of a day.",
                    BYTES,
                    metric(
                        f"max by (datname) (pg_database_size_bytes{{{DATABASES}}})", "{{datname}}"
                    ),
                    empty="no PostgreSQL exporter",
                ),
                lines(
                    "Transactions",
                    "Committed a second, by database.",
                    PER_SECOND,
                    metric(
                        "sum by (datname) "
                        f"(rate(pg_stat_database_xact_commit{{{DATABASES}}}[$__rate_interval]))",
                        "{{datname}}",
                    ),
                    empty="no PostgreSQL exporter",
                ),
            ],
        ),
    ],
)

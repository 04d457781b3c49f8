"""What the dashboards ask the prediction database; Grafana puts in `${...}` and `$__...`."""

# Choices

SECTORS = "SELECT DISTINCT sector FROM tickers ORDER BY sector"
TICKERS = "SELECT ticker FROM tickers WHERE sector IN (${sector:sqlstring}) ORDER BY ticker"
MODELS = """
SELECT 'champion'
UNION ALL (
    SELECT DISTINCT model
    FROM model_versions
    JOIN tickers ON tickers.ticker = model_versions.ticker AND model_version = version
    ORDER BY model
)
"""

# Marks over time

TRAININGS = """
SELECT trained_to::timestamp AS time, 'Trained with ' || tickers || ' tickers to here' AS text
FROM market_models
WHERE $__timeFilter(trained_to)
ORDER BY id
"""
CHAMPIONS = """
SELECT created_at AS time, 'Champion: ' || model || '. ' || reason AS text
FROM champions
WHERE $__timeFilter(created_at)
ORDER BY id
"""

# All tickers

LAST_60 = "SELECT DISTINCT as_of FROM daily_scores ORDER BY as_of DESC LIMIT 60"
CURRENT = """
SELECT avg(coalesce(forecast_revision >= price_revision, false)::int)::float8 AS current
FROM tickers
"""
NEWEST_PRICES = """
SELECT max(last_date)::text AS day,
    extract(epoch FROM max(last_date) - 180)::bigint * 1000 AS since,
    extract(epoch FROM max(last_date) + 15)::bigint * 1000 AS until
FROM tickers
"""
CHAMPION = """
SELECT model, 'since ' || created_at::date AS since
FROM champions
ORDER BY id DESC
LIMIT 1
"""
LIVE = f"""
SELECT model, sum(forecasts) AS scored,
    sum(error) / nullif(sum(naive_error), 0) AS error,
    sum(inside_80)::float8 / sum(forecasts) AS inside_80,
    sum(inside_95)::float8 / sum(forecasts) AS inside_95
FROM daily_scores
WHERE as_of IN ({LAST_60})
GROUP BY model
"""


def live(figure: str) -> str:
    """A figure of what people were shown on the last 60 days that are scored."""
    return f"SELECT {figure} FROM ({LIVE}) AS live WHERE model = 'champion'"


# A ticker

OF_MODEL = "(model = ${model:sqlstring} OR is_champion AND ${model:sqlstring} = 'champion')"
NEWEST = f"""
SELECT *
FROM forecasts
WHERE ticker = ${{ticker:sqlstring}} AND {OF_MODEL}
    AND as_of = (SELECT max(as_of) FROM forecasts WHERE ticker = ${{ticker:sqlstring}})
"""
LAST_CLOSE = """
SELECT close
FROM prices
WHERE ticker = ${ticker:sqlstring}
ORDER BY date DESC
LIMIT 1
"""
IS_CURRENT = """
SELECT CASE WHEN forecast_revision >= price_revision THEN 'yes' ELSE 'no' END AS current
FROM tickers
WHERE ticker = ${ticker:sqlstring}
"""


def newest(figures: str, where: str = "told.h = 10") -> str:
    """Figures of a ticker's newest forecast and the last close that it knew."""
    return f"""
SELECT {figures}
FROM ({NEWEST}) AS told
JOIN prices AS last ON last.ticker = told.ticker AND last.date = told.as_of
WHERE {where}
ORDER BY told.h
"""


BANDS = ", ".join(
    f'{end}_{level} AS "{level} % {word}"'
    for level in (95, 80)
    for end, word in (("lo", "from"), ("hi", "to"))
)
DAYS = newest(
    "h, target_date::text AS date, told.close AS forecast, "
    f"told.close / last.close - 1 AS change, {BANDS}",
    where="true",
)
PATH = f"""
WITH told AS ({NEWEST}),
closes AS (
    SELECT date, close
    FROM prices
    WHERE ticker = ${{ticker:sqlstring}}
    ORDER BY date DESC
    LIMIT 120
),
path AS (
    SELECT target_date AS date, close, lo_80, hi_80, lo_95, hi_95
    FROM told
    UNION ALL
    SELECT date, close, close, close, close, close
    FROM closes
    WHERE date = (SELECT max(as_of) FROM told)
)
SELECT extract(epoch FROM date)::float8 * 1000 AS date,
    closes.close, path.close AS forecast, {BANDS}
FROM closes
FULL JOIN path USING (date)
ORDER BY 1
"""
OUTCOMES = f"""
SELECT extract(epoch FROM target_date)::float8 * 1000 AS date,
    actual.close, told.close AS forecast, {BANDS}
FROM (
    SELECT *
    FROM forecasts
    WHERE ticker = ${{ticker:sqlstring}} AND h = ${{h:raw}} AND {OF_MODEL}
    ORDER BY as_of DESC
    LIMIT 250
) AS told
LEFT JOIN prices AS actual ON actual.ticker = told.ticker AND actual.date = target_date
ORDER BY 1
"""
MODELS_OF_TICKER = f"""
WITH live AS (
    SELECT model, sum(abs(error)) / nullif(sum(abs(naive_error)), 0) AS error
    FROM forecast_scores
    WHERE ticker = ${{ticker:sqlstring}} AND as_of IN ({LAST_60})
    GROUP BY model
)
SELECT model, error AS live, mae_ratio AS backtest, mae_ratio_h10 AS "10 days ahead",
    coverage_80 AS "inside 80 %", coverage_95 AS "inside 95 %", weight, model_versions.days,
    trained_to::text AS "to"
FROM model_versions
JOIN tickers ON tickers.ticker = model_versions.ticker AND model_version = version
LEFT JOIN live USING (model)
WHERE tickers.ticker = ${{ticker:sqlstring}}
ORDER BY mae_ratio NULLS LAST, model
"""

# What became of forecasts


def rolling(figure: str, series: str, where: str) -> str:
    """A figure over the 20 scored days up to each day.

    Args:
        figure: Of the sums of daily_scores, each over the window `w`.
        series: What has a line of its own.
        where: Of which rows.
    """
    return f"""
SELECT as_of::timestamp AS time, series AS metric, value
FROM (
    SELECT as_of, series, ({figure})::float8 AS value
    FROM (
        SELECT as_of, {series} AS series, sum(forecasts) AS forecasts, sum(error) AS error,
            sum(naive_error) AS naive_error, sum(inside_80) AS inside_80,
            sum(inside_95) AS inside_95
        FROM daily_scores
        WHERE as_of BETWEEN $__timeFrom()::date - 60 AND $__timeTo()::date AND {where}
        GROUP BY 1, 2
    ) AS by_day
    WINDOW w AS (PARTITION BY series ORDER BY as_of ROWS 19 PRECEDING)
) AS rolled
WHERE $__timeFilter(as_of)
ORDER BY 1, 2
"""


# Models and sectors

LEADERBOARD = f"""
WITH live AS ({LIVE}),
backtest AS (
    SELECT model, count(*) AS tickers,
        sum(mae * origins) / nullif(sum(mae / mae_ratio * origins), 0) AS error,
        sum(coverage_80 * origins) / sum(origins) AS inside_80,
        sum(coverage_95 * origins) / sum(origins) AS inside_95
    FROM model_versions
    JOIN tickers ON tickers.ticker = model_versions.ticker AND model_version = version
    WHERE origins > 0 AND mae_ratio > 0
    GROUP BY model
)
SELECT model, live.error AS live, live.inside_80 AS "live in 80 %",
    live.inside_95 AS "live in 95 %", live.scored, backtest.error AS backtest,
    backtest.inside_80 AS "backtest in 80 %", backtest.inside_95 AS "backtest in 95 %",
    backtest.tickers
FROM live
FULL JOIN backtest USING (model)
ORDER BY live.error NULLS LAST, backtest.error NULLS LAST, model
"""
BY_SECTOR = """
WITH named AS (
    SELECT CASE ${model:sqlstring}
        WHEN 'champion' THEN (SELECT model FROM champions ORDER BY id DESC LIMIT 1)
        ELSE ${model:sqlstring}
    END
),
told AS (
    SELECT sector, count(*) AS tickers, avg(told.close / last.close - 1) AS change,
        avg((hi_80 - lo_80) / last.close) AS width
    FROM tickers
    LEFT JOIN forecasts AS told
        ON told.ticker = tickers.ticker AND h = 10 AND model = (TABLE named)
        AND as_of = (SELECT max(as_of) FROM forecasts WHERE ticker = tickers.ticker)
    LEFT JOIN LATERAL (
        SELECT close FROM prices WHERE ticker = tickers.ticker AND date = as_of
    ) AS last ON true
    WHERE sector IN (${sector:sqlstring})
    GROUP BY sector
),
backtest AS (
    SELECT sector, sum(mae * origins) / nullif(sum(mae / mae_ratio * origins), 0) AS error,
        sum(coverage_80 * origins) / sum(origins) AS inside_80,
        sum(coverage_95 * origins) / sum(origins) AS inside_95
    FROM model_versions
    JOIN tickers ON tickers.ticker = model_versions.ticker AND model_version = version
    WHERE model = (TABLE named) AND origins > 0 AND mae_ratio > 0
    GROUP BY sector
)
SELECT sector, tickers, change, width, error, inside_80 AS "inside 80 %",
    inside_95 AS "inside 95 %"
FROM told
LEFT JOIN backtest USING (sector)
ORDER BY sector
"""

# What changed

CHANGES = f"""
WITH told AS (
    SELECT tickers.ticker, sector, as_of, age, close, close / last_close - 1 AS change
    FROM tickers
    CROSS JOIN LATERAL (
        SELECT as_of, close, row_number() OVER (ORDER BY as_of DESC) AS age, (
            SELECT close FROM prices WHERE ticker = forecasts.ticker AND date = as_of
        ) AS last_close
        FROM forecasts
        WHERE ticker = tickers.ticker AND h = 10 AND {OF_MODEL}
        ORDER BY as_of DESC
        LIMIT 2
    ) AS told
    WHERE sector IN (${{sector:sqlstring}})
)
SELECT ticker, new.sector, new.as_of::text AS day, new.change, old.change AS before,
    new.change - old.change AS difference, new.close / old.close - 1 AS moved
FROM told AS new
JOIN told AS old USING (ticker)
WHERE new.age = 1 AND old.age = 2
ORDER BY abs(new.change - old.change) DESC, abs(new.close / old.close - 1) DESC
LIMIT 50
"""
NEWEST_DROPS = """
SELECT created_at AS came, file_name AS file, status, rows_read AS read, accepted, collapsed,
    rejected, jsonb_array_length(tickers) AS tickers, error
FROM drops
ORDER BY id DESC
LIMIT 20
"""
NEWEST_CHAMPIONS = """
SELECT created_at AS since, model, pinned, reason
FROM champions
ORDER BY id DESC
LIMIT 20
"""
NEWEST_TRAININGS = """
SELECT created_at AS at, version, trained_to::text AS "to", tickers, days
FROM market_models
ORDER BY id DESC
LIMIT 20
"""

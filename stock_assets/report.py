"""A backtest as files: tables for programs, and one page that explains itself to a colleague.

The page holds its own style and pictures, so it can be sent, kept and read without a network.
"""

# mypy: disallow-untyped-calls=False
# matplotlib annotates only a part of itself.

import base64
import io
from collections.abc import Iterable
from html import escape
from itertools import groupby
from pathlib import Path
from string import Template
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stock_assets import backtest
from stock_assets.backtest import CHAMPION, Forecasts
from stock_assets.intervals import LEVELS
from stock_assets.models import HORIZONS, NAIVE, H

SHOWN = (1, 5, H)  # horizons of the table of models; the CSV has all
_NEAR = 0.02  # models whose error is this close to naive are never called far off
_QUARTERS = 12  # named below an axis at most
# Paul Tol's muted colours, which colour-blind eyes can tell apart
_COLOURS = ("#332288", "#44aa99", "#cc6677", "#999933", "#88ccee", "#882255", "#117733", "#aa4499")
_MARKERS = "osD^vPX*"
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": "#b8c0c8",
    "axes.grid": True,
    "axes.labelcolor": "#24303c",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "grid.color": "#edf0f2",
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "svg.hashsalt": "stock_assets",  # the same numbers make the same file
    "text.color": "#24303c",
    "text.parse_math": False,  # a dollar is a dollar
    "xtick.color": "#5b6874",
    "ytick.color": "#5b6874",
}
_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light }
body { font: 15px/1.55 system-ui, sans-serif; color: #24303c; background: #fff; max-width: 70rem;
  margin: 2.5rem auto; padding: 0 1.25rem }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere }
h2 { font-size: 1.1rem; margin: 2.6rem 0 .6rem }
p { max-width: 50rem }
.muted, thead th, dt, small { color: #5b6874 }
dl { display: flex; flex-wrap: wrap; gap: .8rem; margin: 0 }
dl div { flex: 1 1 11rem; background: #f5f7f8; border-radius: .5rem; padding: .7rem 1rem }
dt, small { font-size: .8rem; font-weight: 400 }
small { display: block }
dd { margin: 0; font-size: 1.3rem; font-weight: 600 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums }
th, td { padding: .28rem .55rem; text-align: right; white-space: nowrap; font-weight: 400 }
th:first-child, td:first-child { text-align: left }
thead th { border-bottom: 1px solid #b8c0c8; white-space: normal; vertical-align: bottom }
tbody td { border-bottom: 1px solid #edf0f2 }
tbody th { padding-top: 1rem; font-weight: 600 }
tr.champion td { font-weight: 600; background: #f5f7f8 }
img { display: block; width: 100%; height: auto }
</style>
</head>
<body>
<h1>$title</h1>
<p class="muted">$period</p>
<p>The platform's own functions were run as of each of these days: models trained, the champion
chosen and intervals drawn from the prices known by then; what the market did next is the judge.
Errors are log returns. MAE / naive is the mean absolute error over that of the last close as a
forecast: below 1 is better. MASE divides by the mean move of a day instead. DM is the statistic of
Diebold and Mariano against naive, positive if the model is better, and p is two-sided: tickers of
the same day count as one observation, and days whose outcomes overlap are allowed for. Held is the
share of closes inside an interval, ± its standard error from means of four weeks. Width is in % of
the last close. Score is Winkler's, the width and a penalty for every close outside, over that of
Gaussian intervals around the last close: below 1 is better.</p>
<h2>The champion, $last trading days ahead</h2>
<dl>$headline</dl>
<h2>Models</h2>
$models
<h2>Do the champion's intervals hold?</h2>
$reliability
<h2>Error by horizon</h2>
$errors
<h2>The champion by quarter, $last trading days ahead</h2>
$quarters
<h2>The champion by sector, $last trading days ahead</h2>
$sectors
<h2>Champions</h2>
$champions
</body>
</html>
""")


def write_report(found: Forecasts, folder: Path, title: str) -> list[Path]:
    """Write a backtest's page and tables; earlier ones are replaced.

    Args:
        found: Forecasts, among them the champion's.
        folder: Made if it does not exist.
        title: Of the page, plain text.

    Returns:
        backtest.html, backtest.csv (a row per model and horizon), by_quarter.csv and by_sector.csv
        (a row per model and group, 10 days ahead).
    """
    summary = backtest.summary(found)
    quarters, sectors = (backtest.breakdown(found, by) for by in ("quarter", "sector"))
    texts = {
        "backtest.html": _page(found, summary, quarters, sectors, title),
        "backtest.csv": _csv(summary),
        "by_quarter.csv": _csv(quarters),
        "by_sector.csv": _csv(sectors),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        _replace(folder / name, text)
    return [folder / name for name in texts]


def _csv(table: pd.DataFrame) -> str:
    """A table as CSV; a text that a spreadsheet would take for a formula has an apostrophe."""
    texts = table.select_dtypes(object).replace(r"^(?=[=+\-@\t\r])", "'", regex=True)
    return table.assign(**texts).to_csv(index=False, lineterminator="\n")


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{uuid4().hex}")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _page(
    found: Forecasts,
    summary: pd.DataFrame,
    quarters: pd.DataFrame,
    sectors: pd.DataFrame,
    title: str,
) -> str:
    days, tickers = found.origins["as_of"], found.origins["ticker"]
    champion = summary[summary["model"] == CHAMPION].set_index("h")
    with rc_context(_STYLE):
        return _PAGE.substitute(
            title=escape(title),
            period=f"{days.min():%Y-%m-%d} to {days.max():%Y-%m-%d}: "
            f"{_count(days.nunique(), 'day')} to forecast from, "
            f"{_count(tickers.nunique(), 'ticker')}, {_count(len(days), 'forecast')} of {H} closes",
            headline=_headline(champion.iloc[-1]),
            models=_models(summary),
            reliability=_reliability(champion),
            errors=_errors(summary),
            quarters=_quarters(quarters[quarters["model"] == CHAMPION].set_index("quarter")),
            sectors=_sectors(sectors[sectors["model"] == CHAMPION]),
            champions=_champions(found),
            last=H,
        )


# Tables


def _headline(row: pd.Series) -> str:
    tiles = [("MAE / naive", _ratio(row), f"DM {row['dm']:.2f}, p {_p_value(row)}")]
    for level in LEVELS:
        width, score = _percent(row[f"width_{level}"]), _number(row[f"winkler_{level}"])
        more = f"width {width} % of the close, score {score} of Gaussian"
        tiles.append((f"{level} % intervals held", f"{_held(row, level)} %", more))
    return "".join(
        f"<div><dt>{name}</dt><dd>{value}<small>{escape(more)}</small></dd></div>"
        for name, value, more in tiles
    )


def _models(summary: pd.DataFrame) -> str:
    headings = ["model", "forecasts", "MAE / naive", "MASE", "RMSE, %", "DM", "p"]
    headings += ["tickers better, %"]
    for level in LEVELS:
        headings += [f"{level} %: held", "width", "score"]
    return _table(
        headings,
        {
            f"{_count(h, 'trading day')} ahead": [
                _model(row) for _, row in summary[summary["h"] == h].iterrows()
            ]
            for h in SHOWN
        },
    )


def _model(row: pd.Series) -> list[str]:
    return [
        row["model"],
        f"{row['forecasts']:,}",
        _ratio(row),
        _number(row["mase"]),
        _percent(row["rmse"], 2),
        _number(row["dm"], 2),
        _p_value(row),
        _percent(row["tickers_better"], 0),
        *(
            text
            for level in LEVELS
            for text in (
                _held(row, level),
                _percent(row[f"width_{level}"]),
                _number(row[f"winkler_{level}"]),
            )
        ),
    ]


def _sectors(rows: pd.DataFrame) -> str:
    return _table(
        ["sector", "forecasts", "MAE / naive", *(f"{level} %: held" for level in LEVELS)],
        {
            "": [
                [
                    str(row["sector"]),
                    f"{row['forecasts']:,}",
                    _ratio(row),
                    *(_percent(row[f"coverage_{level}"]) for level in LEVELS),
                ]
                for _, row in rows.iterrows()
            ]
        },
    )


def _champions(found: Forecasts) -> str:
    """Who was champion from when on: a row per change."""
    reigns = [
        (name, [day for day, _ in days])
        for name, days in groupby(sorted(found.champions.items()), key=lambda item: item[1])
    ]
    return _table(
        ["from", "trainings", "model"],
        {"": [[f"{days[0]}", f"{len(days)}", name] for name, days in reigns]},
    )


def _table(headings: Iterable[str], groups: dict[str, list[list[str]]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in headings)
    body = ""
    for name, rows in groups.items():
        body += "<tbody>"
        if name:
            body += f'<tr><th scope="rowgroup" colspan="{len(rows[0])}">{escape(name)}</th></tr>'
        for row in rows:
            cells = "".join(f"<td>{escape(text)}</td>" for text in row)
            style = f' class="{CHAMPION}"' if row[0] == CHAMPION else ""
            body += f"<tr{style}>{cells}</tr>"
        body += "</tbody>"
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>{body}</table></div>'


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'s' * (n != 1)}"


def _number(value: float, digits: int = 3) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def _ratio(row: pd.Series) -> str:
    return _number(row["mae_ratio"], 4)  # models differ from naive in the fourth digit


def _percent(share: float, digits: int = 1) -> str:
    return _number(100 * share, digits)


def _p_value(row: pd.Series) -> str:
    return "< 0.001" if row["p_value"] < 0.001 else _number(row["p_value"])  # noqa: PLR2004


def _held(row: pd.Series, level: int) -> str:
    return f"{_percent(row[f'coverage_{level}'])} ± {_percent(row[f'coverage_{level}_se'])}"


# Figures


def _reliability(champion: pd.DataFrame) -> str:
    figure = Figure(figsize=(9, 3.2))
    for axes, level, colour in zip(figure.subplots(1, 2), LEVELS, _COLOURS, strict=False):
        held = 100 * champion[f"coverage_{level}"]
        _reference(axes, level, f"promised: {level} %")
        axes.errorbar(
            HORIZONS,
            held,
            yerr=100 * champion[f"coverage_{level}_se"],
            color=colour,
            marker="o",
            capsize=2.5,
            label="held, ± one standard error",
        )
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, level - 4), max(high, level + 4))
        axes.set_xticks(HORIZONS)
        axes.set_xlabel("trading days ahead")
        axes.set_title(f"{level} % intervals: closes inside, %")
        axes.legend(fontsize=8)
    return _image(
        figure,
        "Closes inside the champion's intervals, 1 to 10 days ahead. "
        + ". ".join(
            f"{level} %: {', '.join(map(_percent, champion[f'coverage_{level}']))} %"
            for level in LEVELS
        ),
    )


def _errors(summary: pd.DataFrame) -> str:
    """One line per model; those far off have a panel of their own, lest the others look equal."""
    models = [name for name in summary["model"].unique() if name != NAIVE]
    ratios = summary.pivot(index="h", columns="model", values="mae_ratio")[models]
    off = (ratios - 1).abs().max()
    far = off > max(_NEAR, 4 * off.median())
    figure = Figure(figsize=(9, 3.4))
    panels = [list(ratios.columns[~far]), list(ratios.columns[far])]
    titles = ["MAE / naive", "MAE / naive of models far off: mind the scale"]
    shown = 2 if far.any() else 1
    for axes, names, title in zip(
        figure.subplots(1, shown, squeeze=False)[0], panels[:shown], titles[:shown], strict=True
    ):
        _reference(axes, 1, NAIVE)
        for number, name in enumerate(names):
            axes.plot(
                ratios.index,
                ratios[name],
                label=name,
                color="#24303c" if name == CHAMPION else _COLOURS[number % len(_COLOURS)],
                marker=_MARKERS[number % len(_MARKERS)],
                lw=2.4 if name == CHAMPION else 1.4,
                ls=("-", ":")[number // len(_COLOURS) % 2],
            )
        axes.set_xticks(HORIZONS)
        axes.set_xlabel("trading days ahead")
        axes.set_title(title)
        _thousandths(axes)
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    return _image(
        figure,
        "MAE / naive, 1 to 10 days ahead. "
        + ". ".join(
            f"{name}: {', '.join(f'{ratio:.4f}' for ratio in ratios[name])}" for name in ratios
        ),
    )


def _quarters(rows: pd.DataFrame) -> str:
    figure = Figure(figsize=(9, 3.2))
    left, right = figure.subplots(1, 2)
    _reference(left, 1, NAIVE)
    left.plot(rows.index, rows["mae_ratio"], color="#24303c", marker="o", label=CHAMPION)
    left.set_title("MAE / naive")
    _thousandths(left)
    for level, colour in zip(LEVELS, _COLOURS, strict=False):
        _reference(right, level, None)
        held = 100 * rows[f"coverage_{level}"]
        right.plot(rows.index, held, color=colour, marker="o", label=f"{level} % intervals")
    right.set_title("Closes inside intervals, %; dashed: promised")
    for axes in (left, right):
        axes.set_xticks(range(0, len(rows), -(-len(rows) // _QUARTERS)))
        axes.tick_params(axis="x", rotation=45)
        axes.legend(fontsize=8)
    return _image(
        figure,
        "The champion by quarter: MAE / naive, closes inside 80 % and 95 % intervals. "
        + ". ".join(
            f"{quarter}: {_ratio(row)}, "
            + ", ".join(f"{_percent(row[f'coverage_{level}'])} %" for level in LEVELS)
            for quarter, row in rows.iterrows()
        ),
    )


def _reference(axes: Axes, at: float, label: str | None) -> None:
    axes.axhline(at, color="#8b96a1", lw=1.2, ls="--", label=label)


def _thousandths(axes: Axes) -> None:
    """A scale that does not blow up differences of nothing."""
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.999), max(high, 1.001))
    axes.locator_params(axis="y", nbins=6, steps=[1, 2, 5, 10])
    axes.ticklabel_format(axis="y", useOffset=False)


def _image(figure: Figure, description: str) -> str:
    svg = io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None}, transparent=True)
    data = base64.b64encode(svg.getvalue()).decode()
    return f'<img alt="{escape(description)}" src="data:image/svg+xml;base64,{data}">'

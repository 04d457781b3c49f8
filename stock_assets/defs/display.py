"""Pictures and tables for asset metadata."""

import base64
import io
from dataclasses import asdict
from typing import Any

import dagster as dg
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from PIL import Image

from stock_assets.forecasting import MIN_DAYS, TrainedModel

BOUNDS = ["lo_80", "hi_80", "lo_95", "hi_95"]
HISTORY = 100  # days of closes that are shown before the forecast
_COLOURS = 32  # a palette makes the picture four times smaller than true colour


def forecast_chart(ticker: str, closes: pd.Series, path: pd.DataFrame) -> dg.MarkdownMetadataValue:
    """A ticker's last closes, the forecast path and its intervals.

    Args:
        ticker: Named in the title.
        closes: Closes by date, ascending.
        path: Columns target_date, close, lo_80, hi_80, lo_95 and hi_95; ascending.
    """
    shown = closes.iloc[-HISTORY:]
    today = dict.fromkeys(path.columns, shown.iloc[-1]) | {"target_date": shown.index[-1]}
    fan = pd.concat([pd.DataFrame([today]), path])  # it opens from the last close
    days = pd.to_datetime(fan["target_date"])
    figure = Figure(figsize=(6.4, 3.2), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.09, 0.14, 0.89, 0.76))
    axes.fill_between(days, fan["lo_95"], fan["hi_95"], color="#d6e6f4", lw=0, label="95 %")
    axes.fill_between(days, fan["lo_80"], fan["hi_80"], color="#9fc5e8", lw=0, label="80 %")
    axes.plot(shown.index, shown, color="#333333", lw=1.2, label="close")
    axes.plot(days, fan["close"], color="#c0392b", lw=1.4, label="forecast")
    _date_axis(axes)
    axes.legend(loc="upper left", fontsize=7, frameon=False, ncols=4)
    axes.set_title(f"{ticker}: the next {len(path)} trading days", fontsize=10)
    return _markdown(canvas, f"{ticker}: forecast of the next {len(path)} closes")


def rolling_chart(scores: pd.DataFrame) -> dg.MarkdownMetadataValue:
    """How the forecasts that were shown have done, by the day they were made on.

    Args:
        scores: Columns as_of, h, mae_ratio, coverage_80 and coverage_95.
    """
    by_day = scores.groupby("as_of")[["mae_ratio", "coverage_80", "coverage_95"]].mean()
    days = pd.to_datetime(by_day.index)
    figure = Figure(figsize=(6.4, 3.2), dpi=100)
    canvas = FigureCanvasAgg(figure)
    upper = figure.add_axes((0.09, 0.58, 0.89, 0.32))
    upper.plot(days, by_day["mae_ratio"], color="#c0392b", lw=1.2, marker=".")
    upper.axhline(1, color="#888888", lw=0.8, ls="--")
    upper.set_title("Error of the forecasts shown / naive, and share of closes inside", fontsize=10)
    lower = figure.add_axes((0.09, 0.12, 0.89, 0.38))
    for level, colour in ((80, "#6fa8dc"), (95, "#1f4e79")):
        lower.plot(days, by_day[f"coverage_{level}"], color=colour, lw=1.2, marker=".")
        lower.axhline(level / 100, color=colour, lw=0.8, ls="--")
    lower.set_ylim(0, 1.02)
    for axes in (upper, lower):
        _date_axis(axes)
    return _markdown(canvas, "Rolling error and coverage of the forecasts that were shown")


def training_metadata(trained: list[TrainedModel]) -> dict[str, Any]:
    """How the models of a ticker did in their backtests."""
    told = [
        {"model": model.name, "weight": model.weight} | asdict(model.backtest)
        for model in trained
        if model.backtest
    ]
    if not told:
        return {"baseline": f"{MIN_DAYS} days of history are needed to train"}
    return {"backtest": records_table(pd.DataFrame(told).drop(columns="gains"))}


def records_table(rows: pd.DataFrame) -> dg.TableMetadataValue:
    """A frame as a table, to four digits."""
    return dg.MetadataValue.table(
        [
            dg.TableRecord({str(name): value for name, value in row.items()})
            for row in rows.round(4).astype(object).to_dict("records")
        ]
    )


def forecast_metadata(ticker: str, table: pd.DataFrame, path: pd.DataFrame) -> dict[str, Any]:
    """The champion's tenth day, and its picture, of the forecasts rows of a ticker."""
    champion = path[path["is_champion"]]
    last = champion.iloc[-1]
    return {
        "as_of": f"{last['as_of']:%Y-%m-%d}",
        "champion": last["model"],
        "last_close": float(table["close"].iloc[-1]),
        "close_in_10_days": float(last["close"]),
        "lo_80_in_10_days": float(last["lo_80"]),
        "hi_80_in_10_days": float(last["hi_80"]),
        "dagster/partition_row_count": len(path),
        "picture": forecast_chart(
            ticker, table.set_index("date")["close"], champion[["target_date", "close", *BOUNDS]]
        ),
    }


def _date_axis(axes: Axes) -> None:
    locator = AutoDateLocator(minticks=3, maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.tick_params(labelsize=8)
    axes.xaxis.get_offset_text().set_fontsize(8)


def _markdown(canvas: FigureCanvasAgg, description: str) -> dg.MarkdownMetadataValue:
    canvas.draw()
    picture = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba())
    reduced = picture.convert("RGB").quantize(
        _COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
    )
    png = io.BytesIO()
    reduced.save(png, "PNG")
    data = base64.b64encode(png.getvalue()).decode()
    return dg.MetadataValue.md(f"![{description}](data:image/png;base64,{data})")

"""Pictures for asset metadata."""

import base64
import io

import dagster as dg
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from PIL import Image

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
    locator = AutoDateLocator(minticks=3, maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.tick_params(labelsize=8)
    axes.xaxis.get_offset_text().set_fontsize(8)
    axes.legend(loc="upper left", fontsize=7, frameon=False, ncols=4)
    axes.set_title(f"{ticker}: the next {len(path)} trading days", fontsize=10)
    return _markdown(canvas, f"{ticker}: forecast of the next {len(path)} closes")


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

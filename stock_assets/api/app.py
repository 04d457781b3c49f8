"""The HTTP service: its routes, and what is around all of them."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

from fastapi import FastAPI, Query, Request, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stock_assets import __version__
from stock_assets.api import answers
from stock_assets.api.access import Access, describe_access
from stock_assets.api.middleware import Answered
from stock_assets.api.problems import documented, tell_problems
from stock_assets.api.service import Service
from stock_assets.api.uploads import too_large
from stock_assets.csv_text import COLUMNS
from stock_assets.keys import parse_keys
from stock_assets.metrics import Group
from stock_assets.settings import Settings

if TYPE_CHECKING:
    from stock_assets.api.rate import Rate

PAGE = Path(__file__).parent / "page"
MOST_JSON_BYTES = 1 << 18
EXAMPLE = f"{','.join(COLUMNS)}\nAAPL,Technology,2023-01-03,125.07,130.28,124.17,130.9,112117500\n"
FORM_BYTES = 1 << 16  # of a form, around its file

S = HTTPStatus
TickerInPath = Annotated[str, InPath(pattern=answers.TICKER, max_length=15, examples=["AAPL"])]
DropInPath = Annotated[
    str, InPath(max_length=64, pattern=answers.ID, examples=["prices-1f0c94a1b2c3"])
]
RunInPath = Annotated[
    str,
    InPath(max_length=64, pattern=answers.ID, examples=["8f6a0a52-2f0e-4a70-9a4f-f2a6a1cf9f5e"]),
]
_JSON = "application/json"


def create_app(settings: Settings, hosts: Collection[str] = ()) -> FastAPI:
    """The service on one installation.

    Args:
        settings: Of the installation.
        hosts: Names that it may be called by where there are no keys; any if none is given.

    Raises:
        SetupError: The keys or their rate are not as expected.
    """
    service = Service(settings)
    keys = parse_keys(settings.api_keys.get_secret_value())
    rate = _rate(settings) if keys else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="stock_assets",
        version=__version__,
        summary="From CSVs of daily prices to forecasts of the next 10 closes.",
        lifespan=lifespan,
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # to an address that the request's Host names
    )
    app.add_middleware(_Bounded, most=settings.max_drop_bytes)
    app.add_middleware(Access, keys=keys, rate=rate, hosts=hosts)
    app.add_middleware(Answered)  # is around it
    tell_problems(app)
    _add_forecasts(app, service)  # routes are looked through in this order
    _add_drops(app, service)
    _add_runs(app, service)
    _add_health(app, service)
    _add_page(app)
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        described = describe()
        described["components"]["schemas"]["Problem"] = answers.Problem.model_json_schema()
        if keys:
            describe_access(described)
        return described

    app.openapi = openapi  # type: ignore[method-assign]
    return app


class _Bounded:
    """Has no more read of a body than its address takes; FastAPI's own limit tells no problem."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        """Wrap an app, which takes files of this many bytes, at most."""
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http" and scope["method"] == "POST":
            receive = self._bounded(scope, receive)
        await self._app(scope, receive, send)

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        is_file = scope["path"] == "/upload"
        left = self._most + FORM_BYTES if is_file else MOST_JSON_BYTES
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > left:
            left = -1

        async def bounded() -> Message:
            nonlocal left
            message = await receive() if left >= 0 else {}
            left -= len(message.get("body", b""))
            if left < 0:
                raise too_large(self._most) if is_file else HTTPException(413)
            return message

        return bounded


def _rate(settings: Settings) -> "Rate":
    """Loaded where there are keys: it takes a twentieth of the service's start."""
    from stock_assets.api.rate import Rate  # noqa: PLC0415

    return Rate(settings.api_rate_limit)


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    app.mount("/page", StaticFiles(directory=PAGE))


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["health"])
    async def healthz() -> answers.Health:
        """Whether the service is alive."""
        return answers.Health(status="ok")

    @app.get("/readyz", tags=["health"], responses={503: {"model": answers.Readiness}})
    async def readyz(response: Response) -> answers.Readiness:
        """Whether the database and Dagster answer; with status 503 if one does not."""
        readiness = await service.readiness()
        response.status_code = S.OK if readiness.is_ready else S.SERVICE_UNAVAILABLE
        return readiness

    @app.get(
        "/metrics",
        tags=["health"],
        response_class=Response,
        responses={
            200: {"content": {CONTENT_TYPE_LATEST: {}}},
            **documented(S.UNPROCESSABLE_ENTITY),
        },
    )
    async def metrics(
        group: Annotated[
            list[Group],
            Query(description="Of these alone; of all if none is named.", examples=[["data"]]),
        ] = [*Group],  # noqa: B006  FastAPI copies it
    ) -> Response:
        """What Prometheus scrapes."""
        return Response(await service.exposition(group), media_type=CONTENT_TYPE_LATEST)


def _add_drops(app: FastAPI, service: Service) -> None:
    form = {
        "schema": {
            "type": "object",
            "required": ["file"],
            "properties": {"file": {"type": "string", "format": "binary"}},
        },
        "example": {"file": EXAMPLE},
    }

    @app.post(
        "/upload",
        tags=["drops"],
        status_code=S.ACCEPTED,
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": form}}},
        responses=documented(
            S.REQUEST_ENTITY_TOO_LARGE,
            S.UNSUPPORTED_MEDIA_TYPE,
            S.UNPROCESSABLE_ENTITY,
            S.SERVICE_UNAVAILABLE,
        ),
    )
    async def upload(request: Request) -> answers.Upload:
        """Take a CSV of daily prices, plain or gzip, into the drop folder.

        Its header and first rows are looked at; the rest is validated by a run, which `follow`
        tells of. The same bytes are the same drop.
        """
        return await service.upload(request)

    @app.get(
        "/drops/{drop}",
        tags=["drops"],
        responses=documented(S.NOT_FOUND, S.UNPROCESSABLE_ENTITY, S.SERVICE_UNAVAILABLE),
    )
    async def drop(drop: DropInPath) -> answers.DropReport:
        """What became of a drop: its rows, why some were rejected, whether forecasts are ready."""
        return await service.drop(drop)


def _add_runs(app: FastAPI, service: Service) -> None:
    def told(*statuses: S) -> dict[str, Any]:
        of_all = (S.NOT_FOUND, S.UNPROCESSABLE_ENTITY, S.BAD_GATEWAY, S.SERVICE_UNAVAILABLE)
        return {"tags": ["runs"], "responses": documented(*statuses, *of_all)}

    of_training = {"status_code": S.ACCEPTED, **told(S.CONFLICT)}

    @app.get("/train/{ticker}", operation_id="train_by_get", **of_training)
    @app.post("/train/{ticker}", operation_id="train", **of_training)
    async def train(ticker: TickerInPath) -> answers.Training:
        """Have a ticker's models trained anew and its forecast made, in a run of Dagster.

        Calls that come together share runs: of 200 tickers, ranges are trained, not 200 runs.
        """
        return await service.train([ticker])

    @app.post("/train", status_code=S.ACCEPTED, **told(S.CONFLICT, S.REQUEST_ENTITY_TOO_LARGE))
    async def train_many(wanted: answers.Tickers) -> answers.Training:
        """The same for many tickers, in as few runs as possible."""
        return await service.train(wanted.tickers)

    @app.get("/runs/{run}", **told())
    async def run(run: RunInPath) -> answers.RunReport:
        """What became of a run; why, where it failed."""
        return await service.run(run)


def _add_forecasts(app: FastAPI, service: Service) -> None:
    def told(*statuses: S) -> dict[str, Any]:
        return {
            "tags": ["forecasts"],
            "responses": documented(*statuses, S.UNPROCESSABLE_ENTITY, S.SERVICE_UNAVAILABLE),
        }

    @app.get(
        "/predict/{ticker}",
        response_model=answers.Forecast,
        openapi_extra={"parameters": answers.parameters(answers.Asked, in_path="ticker")},
        **told(S.NOT_FOUND, S.CONFLICT),
    )
    async def predict(request: Request) -> Response:
        """The closes of a ticker's next 10 trading days, with intervals."""
        # FastAPI takes a fifth of the whole request to read three parameters.
        asked = answers.read(answers.Asked, request.query_params, request.path_params)
        forecast = await service.forecast(asked.ticker, asked.model, asked.as_of)
        return Response(forecast, media_type=_JSON)

    @app.post(
        "/batch-predict",
        response_model=answers.Forecasts,
        **told(S.REQUEST_ENTITY_TOO_LARGE),
    )
    async def batch_predict(wanted: answers.Tickers) -> Response:
        """The same for many tickers; what is wrong with one is told in its place."""
        return Response(await service.forecasts(wanted.tickers), media_type=_JSON)

    @app.get("/tickers", **told())
    async def tickers(
        request: Request,
        q: Annotated[
            str,
            Query(
                max_length=60,
                pattern=answers.STORABLE,
                description="In the name or the sector.",
                examples=["energy"],
            ),
        ] = "",
        sort: Annotated[
            str,
            Query(
                pattern=answers.SORT,
                description="With a dash, the highest first.",
                examples=["-width"],
            ),
        ] = "",
        limit: Annotated[int, Query(ge=1, le=answers.MOST_AT_ONCE, examples=[50])] = 100,
        offset: Annotated[int, Query(ge=0, le=1_000_000, examples=[50])] = 0,
    ) -> answers.TickerList:
        """The tickers there are, each with the end of its newest forecast."""
        total, rows = await service.tickers(q.strip(), sort, limit, offset)
        more = None
        if offset + limit < total:
            asked = dict(request.query_params) | {"limit": limit, "offset": offset + limit}
            more = f"/tickers?{urlencode(asked)}"
        return answers.TickerList(total=total, tickers=rows, next=more)

    @app.get("/tickers/{ticker}", **told(S.NOT_FOUND))
    async def ticker(
        ticker: TickerInPath,
        closes: Annotated[int, Query(ge=0, le=5_000, examples=[120])] = 250,
        scores: Annotated[int, Query(ge=0, le=5_000, examples=[200])] = 200,
    ) -> answers.TickerReport:
        """A ticker's last closes, its models, and what became of its forecasts."""
        return await service.ticker(ticker, closes, scores)

"""Every metric of the platform, by its name."""

from prometheus_client import Counter, Histogram

REQUESTS = Counter(
    "stock_assets_api_requests",
    "Requests that the service has answered.",
    ["method", "route", "status"],
)
REQUEST_SECONDS = Histogram(
    "stock_assets_api_request_duration_seconds",
    "From the start of a request to the end of its answer.",
    ["method", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60),
)
UPLOADED_BYTES = Counter(
    "stock_assets_api_uploaded_bytes",
    "Bytes of CSVs that were uploaded and taken.",
)
TRAININGS = Counter(
    "stock_assets_api_trainings",
    "Tickers whose training was asked for.",
)

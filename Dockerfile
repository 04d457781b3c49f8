# One image for the code server, the runs and the service; Dagster's webserver and daemon run from it too.
#   docker build --tag stock-assets:0.1.0 .
# EXTRA is what it can do besides, with commas between: speak to buckets (s3, gcs, azure), fetch prices (yahoo).
# BASE may be any Debian; one without Python gets its own, which has to be 3.11 to 3.13.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS base
RUN command -v python3 >/dev/null || { apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*; }

FROM base AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python3 -c "import ensurepip" || { apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*; }
RUN python3 -m venv --without-pip /opt/stock-assets && python3 -m venv /opt/uv
WORKDIR /build
COPY requirements.lock pyproject.toml README.md LICENSE ./
# What runs need, and nothing of what tests do: uv takes versions and hashes from the lock.
ARG EXTRA=s3,yahoo
RUN /opt/uv/bin/pip install "$(sed -n 's/^\(uv==[0-9.]*\).*/\1/p' requirements.lock)" \
    && /opt/uv/bin/uv pip install --python /opt/stock-assets --no-cache --only-binary :all: \
        --constraint requirements.lock --requirement pyproject.toml $(printf -- ' --extra %s' $(echo "$EXTRA" | tr , ' '))
COPY stock_assets ./stock_assets
RUN /opt/uv/bin/uv pip install --python /opt/stock-assets --no-cache --no-deps . \
    && find /opt/stock-assets -type d -name tests -prune -exec rm -r {} +
# The list of what is installed, as CycloneDX; scanners of images know it by its ending.
RUN /opt/uv/bin/uv pip install --python /opt/uv --no-cache --only-binary :all: --constraint requirements.lock cyclonedx-bom \
    && /opt/uv/bin/python -m cyclonedx_py environment --pyproject pyproject.toml --output-reproducible \
        --output-file stock-assets.cdx.json /opt/stock-assets

FROM base
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="stock-assets" \
      org.opencontainers.image.description="From daily price CSVs to calibrated 10-day forecasts, as Dagster assets" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="MIT"
# What has to be written goes to /tmp, into the database and the store: the root may be read-only.
ENV PATH=/opt/stock-assets/bin:$PATH \
    HOME=/tmp \
    DAGSTER_HOME=/opt/dagster/dagster_home \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin stock-assets
COPY --from=build /opt/stock-assets /opt/stock-assets
COPY --from=build /build/stock-assets.cdx.json /usr/share/sbom/
COPY dagster_home/dagster.yaml /opt/dagster/dagster_home/
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --start-period=30s CMD ["python3", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=5)"]
CMD ["stock-assets", "serve", "--host", "0.0.0.0"]

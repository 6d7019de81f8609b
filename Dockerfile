# The service. Every process of the Procfile runs from this image; docker-compose.yml gives each its command.

FROM python:3.11-slim-bookworm AS packages
COPY requirements-service.lock /
RUN python -m venv /venv \
 && /venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
      -r /requirements-service.lock \
 && printf '%s\n' '#!/venv/bin/python' 'from nubabel_workers.cli.main import app' 'app()' > /venv/bin/nubabel \
 && chmod 755 /venv/bin/nubabel \
 && /venv/bin/python -m compileall -q /venv/lib \
 && /venv/bin/pip uninstall --yes --quiet pip setuptools

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /app nubabel
COPY --from=packages /venv /venv
WORKDIR /app
COPY config config
COPY nubabel_workers nubabel_workers
COPY tasks tasks
ENV PATH=/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NUBABEL_HTTP_HOST=0.0.0.0 \
    NUBABEL_METRICS_HOST=0.0.0.0 \
    NUBABEL_FLOWER_HOST=0.0.0.0 \
    HEALTH_URL=http://127.0.0.1:8000/health
USER 10001
EXPOSE 8000 5555 9100
# Another process than web sets HEALTH_URL to its own metrics.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(os.environ['HEALTH_URL'], timeout=4)"]
CMD ["python", "-m", "nubabel_workers.gateway"]

# The service. Every process of the Procfile runs from this image; docker-compose.yml gives each its command.

FROM python:3.11-slim-bookworm AS packages
COPY requirements-service.lock pyproject.toml /
RUN python -m venv /venv \
 && /venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
      -r /requirements-service.lock \
 && /venv/bin/pip uninstall --yes --quiet pip setuptools \
 && /venv/bin/python -m compileall -q /venv/lib
# The package itself is copied, not installed; its command and its version are what pip would write.
RUN /venv/bin/python <<'EOF'
import pathlib, sysconfig, tomllib

project = tomllib.loads(pathlib.Path("/pyproject.toml").read_text())["project"]
record = pathlib.Path(sysconfig.get_path("purelib"), f"nubabel_workers-{project['version']}.dist-info")
record.mkdir()
(record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
command = pathlib.Path("/venv/bin/nubabel")
command.write_text("#!/venv/bin/python\nfrom nubabel_workers.cli.main import app\n\napp()\n")
command.chmod(0o755)
EOF

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

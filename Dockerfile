# intent_ref: ground.container
# One image for every role: `quantum serve --role ...`. With nothing configured it is the whole platform on embedded PostgreSQL.
FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore

RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin quantum \
    && install -d -o quantum -g quantum -m 0700 /data

WORKDIR /app
# The pins first: this layer changes only when they do.
COPY constraints.txt ./
RUN pip install --require-hashes -r constraints.txt

COPY . .
RUN pip install --no-deps --no-build-isolation . && rm -rf /app/*

USER quantum
ENV QUANTUM_DATA_DIR=/data \
    QUANTUM_HOST=0.0.0.0 \
    QUANTUM_PORT=8000
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ['QUANTUM_PORT']}/health/live\", timeout=4)"]
ENTRYPOINT ["quantum"]
CMD ["serve"]

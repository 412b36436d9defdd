"""gunicorn -c gunicorn.conf.py shop:app: uvicorn's workers with the agent in each."""

import os

import hangwatch

worker_class = "uvicorn_worker.UvicornWorker"
bind = "0.0.0.0:8000"
workers = int(os.environ.get("WEB_CONCURRENCY", "4"))

# gunicorn kills a worker whose loop gave no sign of life for so long, and the evidence with it; hangwatch looks after 0.5 s.
timeout = 60
# Above hangwatch's shutdown_after, so that a stop that hangs is seen before the kill.
graceful_timeout = 30
# The heartbeat file must not wait for a disk: a slow one kills healthy workers.
worker_tmp_dir = "/dev/shm"

# In the master, before it forks: every worker inherits the hooks, and starts its own threads with its first loop. The master runs none.
# Workers share one spool; each takes a metrics port of its own from this one on.
hangwatch.install(
    service=os.environ.get("OTEL_SERVICE_NAME", "shop"),
    metrics_port=int(os.environ.get("HANGWATCH_METRICS_PORT", "9464")),
)

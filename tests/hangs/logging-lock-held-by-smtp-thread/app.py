import argparse
import logging
import logging.handlers
import os

import uvicorn
from fastapi import FastAPI

log = logging.getLogger("shop")
log.propagate = False
log.addHandler(logging.handlers.SMTPHandler(("127.0.0.1", int(os.environ.get("BACKEND_PORT", "9911"))), "shop@example.org", ["ops@example.org"], "error", timeout=None))
app = FastAPI()


@app.post("/import")
def run_import():
    log.error("import failed")
    return {"ok": False}


@app.get("/cart")
async def cart():
    log.error("cart is empty")
    return {"items": []}


@app.get("/")
async def index():
    return {"ok": True}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning")

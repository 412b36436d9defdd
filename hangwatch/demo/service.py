"""A small order desk, as one would write it. Nothing in it is wrong.

GET /orders.csv sends all orders; when the browser goes away meanwhile, it stops. Once sent, the download is booked, which takes a moment.
POST /orders looks up the customer, then reads and stores the order.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

ORDERS: list[dict[str, Any]] = [{"item": "lamp", "count": 2}, {"item": "chair", "count": 4}]


async def until_client_leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def book_download(client: str) -> None:
    await asyncio.sleep(3)  # the statistics service


async def all_orders() -> list[dict[str, Any]]:
    await asyncio.sleep(0.1)  # the database
    return ORDERS


async def send_orders(scope: Message, send: Send) -> None:
    lines = ["item,count", *(f"{order['item']},{order['count']}" for order in await all_orders())]
    await respond(send, 200, "text/csv", "\n".join(lines).encode())
    await book_download(scope["client"][0])


async def download(scope: Message, receive: Receive, send: Send) -> None:
    sending = asyncio.ensure_future(send_orders(scope, send))
    leaving = asyncio.ensure_future(until_client_leaves(receive))
    try:
        await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        await sending
    finally:
        leaving.cancel()


async def find_customer(scope: Message) -> str:
    await asyncio.sleep(0.05)  # the customer service
    return str(scope["client"][0])


async def read_body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body", False):
            return body


async def place_order(scope: Message, receive: Receive, send: Send) -> None:
    customer = await find_customer(scope)
    order = json.loads(await read_body(receive))
    ORDERS.append(order)
    await respond(send, 201, "application/json", json.dumps({"customer": customer, "orders": len(ORDERS)}).encode())


async def respond(send: Send, status: int, kind: str, body: bytes) -> None:
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def lifespan(receive: Receive, send: Send) -> None:
    while True:
        step = (await receive())["type"]
        await send({"type": f"{step}.complete"})
        if step == "lifespan.shutdown":
            return


async def app(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["path"] == "/orders.csv":
        await download(scope, receive, send)
    elif scope["path"] == "/orders" and scope["method"] == "POST":
        await place_order(scope, receive, send)
    else:
        await respond(send, 404, "text/plain", b"no such page")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, http="httptools", loop="asyncio", log_level="warning")

"""The shop's API: orders are rows in PostgreSQL, and redis counts them by item."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel, Field
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

TABLE = """
CREATE TABLE IF NOT EXISTS orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    item text NOT NULL,
    quantity integer NOT NULL CHECK (quantity > 0),
    placed_at timestamptz NOT NULL DEFAULT now()
)
"""


class Order(BaseModel):
    item: str = Field(min_length=1, max_length=100)
    quantity: int = Field(gt=0, le=1000)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    pool = AsyncConnectionPool(
        os.environ["DATABASE"],
        min_size=2,
        max_size=8,
        kwargs={"row_factory": dict_row},
        check=AsyncConnectionPool.check_connection,  # so that no order meets a connection from before a restart
        open=False,
    )
    # The same for the cache: its client meets the closed connection, and asks again over a new one.
    retry = Retry(ExponentialBackoff(), 3)
    async with pool, Redis.from_url(os.environ["CACHE"], decode_responses=True, retry=retry) as cache:
        async with pool.connection() as connection:
            await connection.execute(TABLE)
        app.state.pool, app.state.cache = pool, cache
        yield


app = FastAPI(title="shop", lifespan=lifespan)


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/orders", status_code=201)
async def place(order: Order, request: Request) -> dict[str, object]:
    """Answers 201 only after the row is committed."""
    async with request.app.state.pool.connection() as connection:
        cursor = await connection.execute(
            "INSERT INTO orders (item, quantity) VALUES (%s, %s) RETURNING id, item, quantity",
            (order.item, order.quantity),
        )
        row = await cursor.fetchone()
    await request.app.state.cache.incrby(f"sold:{order.item}", order.quantity)
    return dict(row)


@app.get("/orders/{order_id}")
async def read(order_id: int, request: Request) -> dict[str, object]:
    async with request.app.state.pool.connection() as connection:
        cursor = await connection.execute("SELECT id, item, quantity FROM orders WHERE id = %s", (order_id,))
        row = await cursor.fetchone()
    if row is None:
        raise HTTPException(404, f"there is no order {order_id}")
    return dict(row)


@app.get("/orders")
async def count(request: Request) -> dict[str, int]:
    async with request.app.state.pool.connection() as connection:
        cursor = await connection.execute("SELECT count(*) AS orders FROM orders")
        row = await cursor.fetchone()
    return {"orders": row["orders"]}


@app.get("/sold/{item}")
async def sold(item: str, request: Request) -> dict[str, object]:
    return {"item": item, "sold": int(await request.app.state.cache.get(f"sold:{item}") or 0)}

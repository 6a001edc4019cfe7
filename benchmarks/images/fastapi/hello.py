"""A typed route, and one that fails."""

import fastapi

app = fastapi.FastAPI()


@app.get("/items/{item}")
def read(item: int, q: str = "") -> dict[str, object]:
    return {"item": item, "q": q}


@app.get("/fail")
def fail() -> None:
    raise RuntimeError("on purpose")

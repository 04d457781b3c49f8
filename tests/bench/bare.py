"""The least that a service of FastAPI does: a constant, as large as an answer of ours."""

import os

from fastapi import FastAPI, Response

CONSTANT = b"x" * int(os.environ["CONSTANT_BYTES"])
app = FastAPI()


@app.get("/constant")
async def constant() -> Response:
    """What costs nothing to know."""
    return Response(CONSTANT, media_type="application/json")

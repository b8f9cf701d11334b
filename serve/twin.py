"""Reference points for `serve bench`: the same answers from a plain FastAPI application, and from a bare loop.

python -m serve.twin serve ARTIFACT PORT
python -m serve.twin loop ARTIFACT SECONDS N...
"""

import json
import sys
import time
from pathlib import Path

import torch

from serve import handler, load
from serve.request import CONTENT_TYPES, Offer, parse
from train import MODEL_NAME
from train import artifact as artifacts
from train.artifact import Artifact

OFFER = Offer(max_rows={"json": 100_000, "npy": 100_000})


def answer(artifact: Artifact, n: int, seed: int, form: str) -> bytes:
    """Generate and encode one answer as the handler does."""
    model = {"name": MODEL_NAME, "version": artifact.card["version"], "run_id": None}
    return handler.encoded(artifact, artifact.sample_labelled(n, seed), form, seed, model)


def serve(artifact: Artifact, port: int) -> None:
    """The twin: one process, requests parsed as in the handler, generation in the event loop's thread pool."""
    import uvicorn
    from fastapi import FastAPI, Request, Response
    from starlette.concurrency import run_in_threadpool

    app = FastAPI()

    @app.post("/")
    async def predict(request: Request) -> Response:
        asked = parse({"body": await request.body()}, dict(request.headers), OFFER)
        body = await run_in_threadpool(answer, artifact, asked.n, asked.seed, asked.format)
        return Response(body, media_type=CONTENT_TYPES[asked.format])

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


def loop(artifact: Artifact, seconds: float, sizes: list[int]) -> None:
    """Print a JSON line for each size and format: answers per second, and latency percentiles in milliseconds."""
    for n in sizes:
        for form in ("json", "npy") if n == max(sizes) else ("json",):
            times: list[float] = []
            begin = time.perf_counter()
            while (start := time.perf_counter()) < begin + seconds or len(times) < 2:
                answer(artifact, n, len(times), form)
                times.append(time.perf_counter() - start)
            ranks = load.percentiles(times)
            measured = {"n": n, "format": form, "per_second": len(times) / sum(times)}
            print(json.dumps(measured | {"p50": ranks[49] * 1e3, "p99": ranks[98] * 1e3}), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, directory, *rest = sys.argv[1:]
    loaded = artifacts.load(Path(directory))
    if what == "serve":
        serve(loaded, int(rest[0]))
    else:
        loop(loaded, float(rest[0]), [int(n) for n in rest[1:]])

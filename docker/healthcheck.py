"""The serving container's health check: exit code 0 if the server answers a real prediction.

It runs every few seconds, so it uses only the standard library, to start fast.
"""

import http.client
import json
import os
import sys
from pathlib import Path

SECONDS = 6
ROWS = 2


def main() -> None:
    """Request sequences as a client would; without a seed, because always the same sequences would show as drift.

    Raises:
        OSError, ValueError, KeyError, http.client.HTTPException: the server does not answer as it should.
    """
    state = json.loads(Path(os.environ["LOOKALIKE_SERVE_RUNS"], "serve", "state.json").read_text())
    headers = {"Content-Type": "application/json"}
    if state["token_file"]:
        headers["Authorization"] = f"Bearer {Path(state['token_file']).read_text().strip()}"
    elif state["tokens"]:
        keys = json.loads(Path(state["scratch"], "key_file.json").read_text())
        headers["Authorization"] = f"Bearer {keys['inference']['key']}"
    connection = http.client.HTTPConnection("127.0.0.1", state["port"], timeout=SECONDS)
    connection.request("POST", "/predictions/lookalike", json.dumps({"n": ROWS}), headers)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != http.client.OK or len(json.loads(body)["sequences"]) != ROWS:
        raise ValueError(f"status {answer.status}: {body[:200]!r}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, KeyError, http.client.HTTPException) as problem:
        sys.exit(f"unhealthy: {type(problem).__name__}: {problem}")

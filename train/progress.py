"""Progress bars for long work."""

import logging
import time
from typing import Any

from tqdm import tqdm

log = logging.getLogger("lookalike")

LOG_SECONDS = 15  # between progress lines where there is no terminal


class Progress:
    """A bar over rows; without a terminal, a line now and then instead."""

    def __init__(self, work: str, total: int) -> None:
        self.work, self.total, self.done, self.printed = work, total, 0, time.monotonic()
        self.bar: tqdm[Any] = tqdm(total=total, desc=work, unit="row", unit_scale=True, disable=None, leave=False)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *problem: object) -> None:
        self.bar.close()

    def add(self, rows: int) -> None:
        self.done += rows
        self.bar.update(rows)
        if self.bar.disable and time.monotonic() - self.printed > LOG_SECONDS:
            self.printed = time.monotonic()
            log.info("%s: %s of %s rows", self.work, f"{self.done:,}", f"{self.total:,}")

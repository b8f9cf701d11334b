"""What a worker tells Prometheus: how much it served and refused, and whether what it serves has drifted.

Metrics leave a worker as log lines that TorchServe's frontend reads, so they are added up here and told once a second.
Drift is measured against sequences that the same artifact makes after the worker has started: a deployment that
serves something else than its model shows. This module is a LEAF (see train/__init__.py).
"""

import logging
import math
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

REFERENCE_ROWS = 2048
COMPARED_ROWS = 4096  # a sample is enough to see drift; more would cost a busy worker time
MEMORY_ROWS = 100_000  # so many rows later, one counts a third: a worker of many days must not drown what is new
COLUMNS = 256  # of longer rows, drift is seen in so many: all correlations would keep a core busy
COMMONEST_CODES = 64  # of codes other than 0 and 1, drift is seen in the presence of so many
SECONDS = 1.0
METRICS = {
    "requests_total": ("counter", "Format"),
    "sequences_total": ("counter", "Format"),
    "refusals_total": ("counter", "Field", "Status"),
    "drift_marginal": ("gauge", "Worker"),
    "drift_correlation": ("gauge", "Worker"),
    "drift_compared": ("gauge", "Worker"),
}


class Watch:
    """Adds up what one worker does.

    The archive brings its own description of its metrics, so that it can be served with any metrics.yaml; only those
    that the server's file names too are passed on to Prometheus.

    Args:
        metrics: TorchServe's cache of metrics.
        draw: makes some rows as they are served, (rows, length). It is asked once a second for `rows` in all: to make
            them all at once would keep a worker from its requests, since texts take seconds.
    """

    def __init__(self, metrics: Any, model_name: str, draw: Callable[[], Tensor], rows: int = REFERENCE_ROWS) -> None:
        self._model_name = model_name
        self._metrics = {
            name: _metric(metrics, f"lookalike_{name}", kind, ["ModelName", *labels])
            for name, (kind, *labels) in METRICS.items()
        }
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, ...]] = Counter()
        self._waiting: list[Tensor] = []
        self._waiting_rows = 0
        self._draw, self._rows = draw, rows
        self._reference: list[Tensor] = []
        self._drift: Drift | None = None

    def start(self) -> None:
        """Tell once a second, for as long as the worker lives."""
        threading.Thread(target=self._tell_forever, daemon=True).start()

    def served(self, form: str, codes: Tensor, *, usual: bool = True) -> None:
        """One request was answered with these codes, (n, length). Drift is seen in those with `usual` options only."""
        with self._lock:
            self._counts["requests_total", form] += 1
            self._counts["sequences_total", form] += len(codes)
            if usual and self._waiting_rows < COMPARED_ROWS:
                self._waiting.append(codes[:COMPARED_ROWS])
                self._waiting_rows += len(self._waiting[-1])

    def refused(self, field: str, status: int) -> None:
        """One request was refused because of this field."""
        with self._lock:
            self._counts["refusals_total", field, str(status)] += 1

    def tell(self) -> None:
        """Pass on what has been added up since the last time."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        for (name, *labels), count in counts.items():
            self._metrics[name].add_or_update(count, [self._model_name, *labels])
        if self._drift is None:
            self._reference.append(self._draw())
            if sum(map(len, self._reference)) >= self._rows:
                self._drift = Drift(torch.cat(self._reference))
        else:
            self._tell_drift(self._drift)

    def _tell_drift(self, drift: "Drift") -> None:
        with self._lock:
            waiting, self._waiting, self._waiting_rows = self._waiting, [], 0
        if waiting:
            drift.add(torch.cat(waiting))
            for name, value in drift.measure().items():
                self._metrics[f"drift_{name}"].add_or_update(value, [self._model_name, _worker()])

    def _tell_forever(self) -> None:
        pause, failed = threading.Event(), False
        while not pause.wait(SECONDS):
            try:
                self.tell()
            except Exception:  # whatever it is: without this thread a worker would have no metrics for all its life
                if not failed:
                    logging.exception("metrics could not be told; if that happens again, it is not logged")
                failed = True


def _worker() -> str:
    """What tells this worker from others: the number of its socket, which one that replaces it has, too."""
    command = sys.argv
    if "--sock-name" in command:
        return command[command.index("--sock-name") + 1].rsplit(".", 1)[-1]
    return str(os.getpid())


def _metric(metrics: Any, name: str, kind: str, labels: list[str]) -> Any:
    known = next(found for found in metrics.cache if found.value == kind)  # a member of TorchServe's enumeration
    return metrics.cache[known].get(name) or metrics.add_metric_to_cache(name, "unit", labels, known)


class Drift:
    """How far the sequences seen so far are from a reference: in their marginals and in their correlations."""

    def __init__(self, reference: Tensor) -> None:
        self._commonest = _commonest(reference) if reference.to(torch.int32).amax() > 1 else None
        self._columns = _evenly_spaced(reference.shape[1])
        rows = self._bits(reference)
        self._expected, self._seen = _Moments(rows.shape[1]), _Moments(rows.shape[1])
        self._expected.add(rows)

    def add(self, codes: Tensor) -> None:
        self._seen.add(self._bits(codes))

    def _bits(self, codes: Tensor) -> Tensor:
        """Columns of codes that are 0 and 1; of others, whether each of the commonest ones is in the row."""
        if self._commonest is None:
            return codes[:, self._columns]
        codes = codes.long()
        return torch.stack([(codes == code).any(1) for code in self._commonest], dim=1)

    def measure(self) -> dict[str, float]:
        """Mean absolute differences of the column means and of the correlations, and over how many sequences."""
        marginal = (self._seen.marginals() - self._expected.marginals()).abs().mean()
        correlation = (self._seen.correlations() - self._expected.correlations()).abs()
        pairs = max(correlation.numel() - len(correlation), 1)  # the diagonal differs by nothing
        return {
            "marginal": round(float(marginal), 6),
            "correlation": round(float(correlation.sum()) / pairs, 6),
            "compared": round(self._seen.n),
        }


def _evenly_spaced(length: int) -> Tensor:
    """The places of all columns, or of `COLUMNS` from the first to the last."""
    return torch.linspace(0, length - 1, min(length, COLUMNS)).round().long()


def _commonest(codes: Tensor) -> Tensor:
    """The codes that occur most often, at most `COMMONEST_CODES`."""
    found, counts = codes.long().unique(return_counts=True)
    return found[counts.argsort(descending=True, stable=True)[:COMMONEST_CODES]]


class _Moments:
    """First and second moments of 0/1 rows, added up. Earlier rows count less, by the factor e each `MEMORY_ROWS`.

    Attributes:
        n: for how many rows those seen so far count, at most about `MEMORY_ROWS`.
    """

    def __init__(self, length: int) -> None:
        self.n = 0.0
        self._ones = torch.zeros(length, dtype=torch.float64)
        self._pairs = torch.zeros(length, length, dtype=torch.float64)

    def add(self, codes: Tensor) -> None:
        rows = codes.double()
        kept = math.exp(-len(rows) / MEMORY_ROWS)
        self.n = kept * self.n + len(rows)
        self._ones.mul_(kept).add_(rows.sum(0))
        self._pairs.mul_(kept).addmm_(rows.T, rows)

    def marginals(self) -> Tensor:
        return self._ones / self.n

    def correlations(self) -> Tensor:
        """(length, length), with 1 on the diagonal; a constant column counts as correlation 0."""
        p = self.marginals()
        deviation = (p * (1 - p)).sqrt()
        scale = torch.outer(deviation, deviation)
        covariance = self._pairs / self.n - torch.outer(p, p)
        return torch.where(scale > 0, covariance / scale, 0.0).fill_diagonal_(1.0)

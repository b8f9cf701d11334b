"""A worker's metrics for Prometheus: how much it served and refused, and whether what it serves has drifted.

Metrics leave a worker as log lines that TorchServe's frontend parses, so they are summed here and passed on once a
second. Drift is measured against sequences that the artifact generates after the worker has started: it shows when
what is served differs from what the model generates. This module is a LEAF (see train/__init__.py).
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
COMPARED_ROWS = 4096  # per second; a sample shows drift, and more would take a busy worker's time
MEMORY_ROWS = 100_000  # after this many newer rows, a row counts 1/e: old rows must not hide new drift
COLUMNS = 256  # drift is measured in at most this many columns: all correlations of long rows would take a core
COMMONEST_CODES = 64  # of codes other than 0 and 1, drift is measured in the presence of this many
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
    """Sums up the metrics of one worker.

    The archive defines its own metrics, so that it can be served with any metrics.yaml; Prometheus gets only those that
    the server's metrics.yaml also lists.

    Args:
        metrics: TorchServe's cache of metrics.
        draw: generates some rows as they are served, (rows, length). It is called once a second until there are `rows`
            reference rows: drawing all at once can take seconds for texts, and would hold up requests.
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
        """Call `tell` once a second, for as long as the worker lives."""
        threading.Thread(target=self._tell_forever, daemon=True).start()

    def served(self, form: str, codes: Tensor, *, usual: bool = True) -> None:
        """Count a request answered with these codes, (n, length); only with `usual` options do they count for drift."""
        with self._lock:
            self._counts["requests_total", form] += 1
            self._counts["sequences_total", form] += len(codes)
            if usual and self._waiting_rows < COMPARED_ROWS:
                self._waiting.append(codes[:COMPARED_ROWS])
                self._waiting_rows += len(self._waiting[-1])

    def refused(self, field: str, status: int) -> None:
        """Count a request that was refused because of this field."""
        with self._lock:
            self._counts["refusals_total", field, str(status)] += 1

    def tell(self) -> None:
        """Pass on what has been counted since the last call."""
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
            except Exception:  # any: if this thread ended, the worker would have no more metrics
                if not failed:
                    logging.exception("metrics could not be updated; further failures are not logged")
                failed = True


def _worker() -> str:
    """An identifier for this worker: the number of its socket, which a replacement inherits, or else its pid."""
    command = sys.argv
    if "--sock-name" in command:
        return command[command.index("--sock-name") + 1].rsplit(".", 1)[-1]
    return str(os.getpid())


def _metric(metrics: Any, name: str, kind: str, labels: list[str]) -> Any:
    known = next(found for found in metrics.cache if found.value == kind)  # a member of TorchServe's enumeration
    return metrics.cache[known].get(name) or metrics.add_metric_to_cache(name, "unit", labels, known)


class Drift:
    """How far the sequences seen so far differ from a reference, in marginals and in correlations."""

    def __init__(self, reference: Tensor) -> None:
        self._commonest = _commonest(reference) if reference.to(torch.int32).amax() > 1 else None
        self._columns = _evenly_spaced(reference.shape[1])
        rows = self._bits(reference)
        self._expected, self._seen = _Moments(rows.shape[1]), _Moments(rows.shape[1])
        self._expected.add(rows)

    def add(self, codes: Tensor) -> None:
        self._seen.add(self._bits(codes))

    def _bits(self, codes: Tensor) -> Tensor:
        """For codes 0 and 1, the chosen columns; for others, whether each of the commonest codes is in the row."""
        if self._commonest is None:
            return codes[:, self._columns]
        codes = codes.long()
        return torch.stack([(codes == code).any(1) for code in self._commonest], dim=1)

    def measure(self) -> dict[str, float]:
        """Mean absolute differences of column means and of correlations, and the number of sequences compared."""
        marginal = (self._seen.marginals() - self._expected.marginals()).abs().mean()
        correlation = (self._seen.correlations() - self._expected.correlations()).abs()
        pairs = max(correlation.numel() - len(correlation), 1)  # without the diagonal, whose differences are 0
        return {
            "marginal": round(float(marginal), 6),
            "correlation": round(float(correlation.sum()) / pairs, 6),
            "compared": round(self._seen.n),
        }


def _evenly_spaced(length: int) -> Tensor:
    """The indices of all columns, or of `COLUMNS` evenly spaced ones from the first to the last."""
    return torch.linspace(0, length - 1, min(length, COLUMNS)).round().long()


def _commonest(codes: Tensor) -> Tensor:
    """The codes that occur most often, at most `COMMONEST_CODES`."""
    found, counts = codes.long().unique(return_counts=True)
    return found[counts.argsort(descending=True, stable=True)[:COMMONEST_CODES]]


class _Moments:
    """Sums of first and second moments of 0/1 rows, which decay by the factor e over `MEMORY_ROWS` newer rows.

    Attributes:
        n: the effective number of rows, at most about `MEMORY_ROWS`.
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

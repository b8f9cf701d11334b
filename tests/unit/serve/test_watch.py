"""What a worker reports to Prometheus."""

import enum
import math
from pathlib import Path

import pytest
import torch
import yaml

from serve import handler, watch
from serve.watch import Drift, Watch

REFERENCE = (torch.rand(2000, 4, generator=torch.Generator().manual_seed(0)) < 0.5).to(torch.uint8)


class Kind(enum.Enum):
    """Like TorchServe's MetricTypes."""

    COUNTER = "counter"
    GAUGE = "gauge"


class FakeMetrics:
    """Stands in for TorchServe's metrics cache: filled from metrics.yaml, it records what it is told."""

    def __init__(self) -> None:
        described = yaml.safe_load((Path(handler.__file__).parent / "metrics.yaml").read_text())["model_metrics"]
        self.cache = {
            kind: {
                metric["name"]: FakeMetric(self, metric["name"], metric["dimensions"])
                for metric in described[kind.value]
            }
            for kind in Kind
        }
        self.told: dict[tuple[str, ...], float] = {}

    def add_metric_to_cache(self, name: str, unit: str, labels: list[str], kind: Kind) -> "FakeMetric":
        self.cache[kind][name] = FakeMetric(self, name, labels)
        return self.cache[kind][name]


class FakeMetric:
    """One metric of the cache."""

    def __init__(self, metrics: FakeMetrics, name: str, dimensions: list[str]) -> None:
        self.metrics, self.name, self.dimensions = metrics, name, dimensions

    def add_or_update(self, value: float, labels: list[str]) -> None:
        assert len(labels) == len(self.dimensions)
        self.metrics.told[(self.name.removeprefix("lookalike_"), *labels)] = value


def test_only_usual_requests_count_as_drift() -> None:
    metrics = FakeMetrics()
    watched = Watch(metrics, "m", lambda: REFERENCE, len(REFERENCE))
    watched.served("json", REFERENCE[:3])
    watched.served("json", torch.zeros_like(REFERENCE), usual=False)
    watched.tell()  # the first call draws the rows to compare with
    watched.tell()
    (compared,) = (value for (name, *_), value in metrics.told.items() if name == "drift_compared")
    assert compared == 3
    assert metrics.told["sequences_total", "m", "json"] == 2003


def test_drift_of_other_codes_is_in_which_of_the_commonest_occur() -> None:
    rng = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 300, (2000, 8), generator=rng).to(torch.uint16)
    drift = Drift(codes)
    drift.add(codes)
    same = drift.measure()
    assert (same["marginal"], same["correlation"]) == (0, 0)
    drift.add(codes.roll(1, dims=1))
    turned = drift.measure()
    assert (turned["marginal"], turned["correlation"]) == (0, 0), "positions within a row do not matter"
    drift.add(torch.full((2000, 8), 7).to(torch.uint16))
    assert drift.measure()["marginal"] > 0.01


def test_counts_are_told_once() -> None:
    metrics = FakeMetrics()
    watched = Watch(metrics, "m", lambda: REFERENCE, len(REFERENCE))
    watched.served("json", REFERENCE[:3])
    watched.served("json", REFERENCE[:2])
    watched.served("npy", REFERENCE[:7])
    watched.refused("n", 413)
    watched.tell()
    counted = {key: value for key, value in metrics.told.items() if not key[0].startswith("drift")}
    assert counted == {
        ("requests_total", "m", "json"): 2,
        ("sequences_total", "m", "json"): 5,
        ("requests_total", "m", "npy"): 1,
        ("sequences_total", "m", "npy"): 7,
        ("refusals_total", "m", "n", "413"): 1,
    }
    metrics.told.clear()
    watched.tell()
    assert {name for name, *_ in metrics.told} == {"drift_marginal", "drift_correlation", "drift_compared"}
    metrics.told.clear()
    watched.tell()
    assert not metrics.told


def test_metrics_yaml_describes_what_the_worker_tells() -> None:
    metrics = FakeMetrics()
    described = {name: metric.dimensions for kind in Kind for name, metric in metrics.cache[kind].items()}
    Watch(metrics, "m", lambda: REFERENCE, len(REFERENCE))
    for name, (kind, *labels) in watch.METRICS.items():
        assert described[f"lookalike_{name}"] == ["ModelName", *labels]
        assert [known.value for known in Kind if f"lookalike_{name}" in metrics.cache[known]] == [kind]


def test_a_server_that_knows_none_of_the_metrics_is_no_hindrance() -> None:
    metrics = FakeMetrics()
    metrics.cache = {kind: {} for kind in Kind}
    watched = Watch(metrics, "m", lambda: REFERENCE, len(REFERENCE))
    watched.refused("n", 400)
    watched.tell()
    assert metrics.told["refusals_total", "m", "n", "400"] == 1


def test_drift_looks_at_a_bounded_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "COMPARED_ROWS", 10)
    metrics = FakeMetrics()
    watched = Watch(metrics, "m", lambda: REFERENCE, len(REFERENCE))
    for _ in range(5):
        watched.served("json", REFERENCE[:100])
    watched.tell()
    watched.tell()
    assert [value for key, value in metrics.told.items() if key[0] == "drift_compared"] == [10]
    assert metrics.told["sequences_total", "m", "json"] == 500


def test_each_telling_looks_at_a_sample_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "COMPARED_ROWS", 10)
    metrics = FakeMetrics()
    watched = Watch(metrics, "m", lambda: REFERENCE, len(REFERENCE))
    watched.served("json", REFERENCE[:10])
    watched.tell()
    watched.tell()
    watched.served("json", REFERENCE[10:20])
    watched.tell()
    assert [value for key, value in metrics.told.items() if key[0] == "drift_compared"] == [20]


def test_drift_waits_for_enough_rows_to_compare_with_and_names_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["worker.py", "--sock-type", "unix", "--sock-name", "/tmp/.ts.sock.9001"])
    metrics = FakeMetrics()
    parts = iter(REFERENCE.split(500))
    watched = Watch(metrics, "m", lambda: next(parts), 1200)
    for _ in range(3):
        watched.served("json", REFERENCE[:10])
        watched.tell()
        assert not any(name.startswith("drift") for name, *_ in metrics.told)
    watched.tell()
    assert metrics.told["drift_compared", "m", "9001"] == 30
    assert len(next(parts)) == 500, "no more rows are drawn than needed"


def test_drift_is_nothing_for_the_reference_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MEMORY_ROWS", math.inf)  # otherwise later blocks would weigh more
    drift = Drift(REFERENCE)
    for block in REFERENCE.split(300):
        drift.add(block)
    assert drift.measure() == {"marginal": 0.0, "correlation": 0.0, "compared": 2000}


def test_drift_shows_wrong_marginals_and_wrong_correlations() -> None:
    constant = Drift(REFERENCE)
    constant.add(torch.zeros(100, 4, dtype=torch.uint8))
    assert constant.measure()["marginal"] == pytest.approx(0.5, abs=0.02)
    copied = Drift(REFERENCE)
    copied.add(REFERENCE[:, :1].expand(-1, 4))
    assert copied.measure()["marginal"] < 0.03
    assert copied.measure()["correlation"] > 0.9


def test_drift_shows_within_a_minute_after_days_without_any() -> None:
    drift = Drift(REFERENCE)
    good = REFERENCE.repeat(3, 1)[: watch.COMPARED_ROWS]
    for _ in range(10_000_000 // len(good)):
        drift.add(good)
    before = drift.measure()
    assert before["marginal"] < 0.01
    assert before["compared"] == pytest.approx(watch.MEMORY_ROWS, rel=0.05)
    for _ in range(60):  # a minute, as a worker compares COMPARED_ROWS per second
        drift.add(REFERENCE[:1].expand(watch.COMPARED_ROWS, -1))  # one seed over and over
    after = drift.measure()
    assert after["marginal"] > 0.4
    assert after["compared"] == pytest.approx(watch.MEMORY_ROWS, rel=0.05)


def test_a_failure_to_tell_is_logged_once_and_the_next_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watch(FakeMetrics(), "m", lambda: REFERENCE, len(REFERENCE))
    outcomes = iter([RuntimeError("no metrics"), RuntimeError("no metrics"), None, SystemExit()])

    def tell() -> None:
        if outcome := next(outcomes):
            raise outcome

    monkeypatch.setattr(watch, "SECONDS", 0.001)
    monkeypatch.setattr(watched, "tell", tell)
    with pytest.raises(SystemExit):  # only that ends the loop
        watched._tell_forever()
    assert caplog.text.count("RuntimeError: no metrics") == 1


def test_drift_of_long_rows_is_that_of_evenly_spaced_columns() -> None:
    rng = torch.Generator().manual_seed(2)
    reference, seen = ((torch.rand(50, 1000, generator=rng) < p).to(torch.uint8) for p in (0.4, 0.6))
    columns = torch.linspace(0, 999, watch.COLUMNS).round().long()
    assert torch.equal(columns[[0, -1]], torch.tensor([0, 999]))
    whole, some = Drift(reference), Drift(reference[:, columns])
    whole.add(seen)
    some.add(seen[:, columns])
    assert whole.measure() == some.measure()
    assert whole._seen.correlations().shape == (watch.COLUMNS, watch.COLUMNS)


@pytest.mark.parametrize("length", [1, 2, 64, 255, 256])
def test_drift_of_rows_of_ordinary_length_is_that_of_all_columns(length: int) -> None:
    rng = torch.Generator().manual_seed(2)
    reference, seen = ((torch.rand(50, length, generator=rng) < p).to(torch.uint8) for p in (0.4, 0.6))
    drift = Drift(reference)
    drift.add(seen)
    expected, found = watch._Moments(length), watch._Moments(length)
    expected.add(reference)
    found.add(seen)
    marginal = (found.marginals() - expected.marginals()).abs().mean()
    correlation = (found.correlations() - expected.correlations()).abs().sum() / max(length * (length - 1), 1)
    assert drift.measure() == {
        "marginal": round(float(marginal), 6),
        "correlation": round(float(correlation), 6),
        "compared": 50,
    }


def test_correlations_are_those_of_pearson() -> None:
    rows = (torch.rand(500, 3, generator=torch.Generator().manual_seed(1)) < torch.tensor([0.2, 0.5, 0.9])).to(
        torch.uint8
    )
    moments = watch._Moments(3)
    moments.add(rows)
    torch.testing.assert_close(moments.correlations(), torch.corrcoef(rows.T.double()))


def test_a_constant_column_correlates_with_none() -> None:
    moments = watch._Moments(2)
    moments.add(torch.tensor([[0, 1], [1, 1]], dtype=torch.uint8))
    assert torch.equal(moments.correlations(), torch.eye(2, dtype=torch.float64))

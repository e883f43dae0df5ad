"""Measurements that correct the planner's estimate: made-up ones, of a run and of single kernels.

Claim: `--calibrate` makes the estimate meet a measured run, and later plans cite it.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest
from test_plan_pod import RECORDED, compiled, job

from benchmarks import kernels as benchmark
from dots_jax.config import UserError
from dots_jax.hlo.calibration import SHARES
from dots_jax.hlo.kernel_table import kernel_table
from dots_jax.parallel.topology import CHIPS
from dots_jax.planning.calibrate import _same, call_seconds, compare, read_measurements, with_measured
from dots_jax.planning.forecast import Forecast
from dots_jax.planning.forecast_text import forecast_text

V5P = CHIPS["v5p"]


def metrics(path, seconds: float, tokens: float, steps: int = 50):
    """A run whose first steps compile, and whose others take `seconds` in the median."""
    rows = [{"step": 1, "first_step_seconds": 300.0}]
    for step in range(2, steps):
        taken = 90.0 if step < 9 else seconds * (1 + 0.01 * (step % 3 - 1))
        rows.append({"step": step, "step_seconds": taken, "tokens_per_second": tokens / taken, "mean_load": 1536})
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(path)


def test_a_run_corrects_the_estimate_and_later_plans_cite_it(tmp_path):
    plain = Forecast(compiled(job(), 80, RECORDED))
    predicted = plain.step_seconds["calibrated"]
    path = metrics(tmp_path / "metrics.jsonl", 1.25 * predicted, plain.step_tokens)
    found = read_measurements((path,), V5P)
    assert found.run.seconds == pytest.approx(1.25 * predicted) and found.run.steps < 40
    shares, lines = compare(found.run, plain)
    assert "calibrated" in lines[1] and "predicted / measured 0.800" in lines[1] and "compiler" in "".join(lines)

    corrected = Forecast(compiled(job(), 80, RECORDED), shares)
    assert corrected.step_seconds["calibrated"] == pytest.approx(1.25 * predicted)
    assert corrected.step_seconds["compiler"] == plain.step_seconds["compiler"]

    later = read_measurements((str(tmp_path / "calibration.json"),), V5P)
    again = Forecast(compiled(job(), 80, RECORDED), later.shares, later.kernels)
    assert again.step_seconds["calibrated"] == pytest.approx(1.25 * predicted)
    assert "1.250" in forecast_text(again) and "measured on this chip" in forecast_text(again)
    narrow, wide = again.calibrated_range, plain.calibrated_range
    assert narrow[2] / narrow[0] < wide[2] / wide[0]
    recorded = json.loads((tmp_path / "calibration.json").read_text())
    assert {"chip", "jax", "libtpu", "module", "ratio", "steps"} <= set(recorded)


def test_the_tokens_of_a_step_must_be_the_plans(tmp_path):
    plain = Forecast(compiled(job(), 80, RECORDED))
    run = read_measurements((metrics(tmp_path / "m.jsonl", 10.0, 2 * plain.step_tokens),), V5P).run
    with pytest.raises(UserError, match="plan the run's own gin file"):
        compare(run, plain)
    assert not (tmp_path / "calibration.json").exists()


def test_measured_kernels_replace_rows_of_the_table(tmp_path):
    table = kernel_table(V5P, SHARES["v5p"].hbm)
    gmm = next(row for row in table.rows if row.kernel == "gmm")
    call = {
        "kernel": "gmm", "tiles": list(gmm.tiles), "contracted": gmm.contracted, "columns": gmm.columns,
        "transposed": gmm.transposed, "rows": 196_608, "experts": 128,
    }  # fmt: skip
    taken = 2 * call_seconds(gmm, table, call)
    found = {
        "chip": "v5p",
        "date": "2026-12-01",
        "kernels": [call | {"seconds": taken}],
        "hbm_bytes_per_second": 2.4e12,
    }
    path = tmp_path / "kernels.json"
    path.write_text(json.dumps(found))
    after = read_measurements((str(path),), V5P)
    assert after.shares.hbm == pytest.approx(2.4e12 / V5P.hbm) and after.shares.hbm_kind == "measured on this chip"
    new = next(row for row in after.kernels.rows if row.kernel == "gmm")
    wider = dataclasses.replace(after.kernels, bandwidth=table.bandwidth)
    assert call_seconds(new, wider, call) == pytest.approx(taken, rel=0.02) and new.kind == "measured"
    assert [row.scale for row in after.kernels.rows if row.kernel != "gmm"] == [
        row.scale for row in table.rows if row.kernel != "gmm"
    ]
    assert "1 of" in after.kernels.made_with and "kernels.json" in after.kernels.made_with


def test_the_benchmark_measures_rows_of_the_table(monkeypatch):
    """Every call that `benchmarks.kernels` times has its row; made up, each takes twice what the table says."""
    monkeypatch.setattr(benchmark, "seconds_of", lambda *arguments, **options: 1.0)
    monkeypatch.setattr(benchmark.jnp, "ones", lambda shape, dtype=jnp.float32: jax.ShapeDtypeStruct(shape, dtype))
    calls = [
        row
        for rows in (benchmark.attention_rows, benchmark.grouped_rows, benchmark.norm_rows)
        for row in rows(1, False, {})
    ]
    table = kernel_table(V5P, SHARES["v5p"].hbm)
    measured = []
    for call in calls:
        (row,) = [row for row in table.rows if _same(row, call)]
        measured.append(call | {"seconds": 2 * call_seconds(row, table, call)})
    after = with_measured(table, measured, "made up")
    doubled = {row.kernel for row in after.rows if row.scale == pytest.approx(2)}
    assert doubled >= {"attention_forward", "attention_backward", "forward_norm_rope", "gmm", "tgmm"}


@pytest.mark.parametrize(
    "text, sentence",
    [
        (
            '{"chip": "v6e", "ratio": 1.1, "steps": 40, "date": "2026-12-01"}',
            "measured on v6e, and this plan is for v5p",
        ),
        ('{"chip": "v6e", "kernels": []}', "measured on v6e"),
        ('{"other": 1}', "neither metrics.jsonl of a run"),
        ('{"step_seconds": 1}\n{"step_seconds": 1}', "it has 2 steps with step_seconds, and 20 are needed"),
        ('{"step_seconds": 1}\nnot JSON', "line 2 is not JSON"),
        ('{"step_seconds": null}\n{"step_seconds": 1}', "a field is missing or no number"),
        ('{"chip": "v5p", "ratio": 1.1}', "a field is missing or no number .KeyError: 'steps'"),
        ('{"chip": "v5p", "kernels": [{"kernel": "gmm"}]}', "a field is missing or no number .KeyError: 'tiles'"),
    ],
)
def test_files_that_do_not_help(tmp_path, text, sentence):
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_measurements((str(path),), V5P)


def test_a_missing_file():
    with pytest.raises(UserError, match="cannot be read"):
        read_measurements(("no/such/file",), V5P)

"""The simulation of a fleet: nothing lost, nothing done twice without a reason, and the same numbers for a seed."""

from __future__ import annotations

import json
import xml.dom.minidom

import numpy as np
import pytest

from benchmarks.fleet import Fleet, cost, main, seconds_of, simulate, svg

EQUAL = Fleet(workers=10, spread=0.0, slow_share=0.0, handover=0.0)


def photos(count=2000, seed=0):
    return np.random.default_rng(seed).lognormal(0, 0.5, count)


def test_equal_machines_that_never_die_waste_at_most_a_share():
    seconds = photos()
    outcome = simulate(seconds, EQUAL, 4)
    assert outcome.ideal == pytest.approx(seconds.sum() / 10)
    assert outcome.ideal <= outcome.seconds <= outcome.ideal + 4 * seconds.max()
    assert (outcome.lost, outcome.failures) == (0, 0)
    assert outcome.waited == pytest.approx(10 * outcome.seconds - seconds.sum())


def test_one_machine_takes_the_sum():
    seconds = photos(50)
    assert simulate(seconds, Fleet(1, 0.0, 0.0, handover=0.5), 5).seconds == pytest.approx(seconds.sum() + 10 * 0.5)


def test_large_shares_wait_for_slow_machines_and_small_ones_do_not():
    slow = Fleet(workers=10, spread=0.0, slow_share=0.1, slow_factor=5, handover=0.0)
    small, large = (simulate(photos(), slow, share) for share in (2, 200))
    assert small.efficiency > 0.95
    assert large.efficiency < 0.6


def test_every_photo_is_done_and_records_lose_only_the_photo_in_hand():
    seconds = photos()
    frail = Fleet(workers=10, spread=0.0, slow_share=0.0, between_failures=60, restart=0.0, noticed=0.0, handover=0.0)
    with_records, without = (simulate(seconds, frail, 50, records=records, seed=3) for records in (True, False))
    assert with_records.failures > 20
    assert with_records.lost <= with_records.failures * seconds.max()
    assert without.lost > 5 * with_records.lost
    for outcome in (with_records, without):
        # every worker works all the time: on a photo for the first time, for nothing, or waits at the end
        assert 10 * outcome.seconds == pytest.approx(seconds.sum() + outcome.lost + outcome.waited, rel=0.01)


def test_a_seed_is_a_result():
    frail = Fleet(workers=10, between_failures=100)
    assert simulate(photos(), frail, 16, seed=1) == simulate(photos(), frail, 16, seed=1)
    assert simulate(photos(), frail, 16, seed=1) != simulate(photos(), frail, 16, seed=2)


def test_cost_is_hours_times_processors_times_price():
    assert cost(7200, 2, 0.05) == pytest.approx(0.2)


def test_the_program_reads_results_and_writes_a_table_and_a_chart(tmp_path, capsys):
    lines = [{"status": "ok", "seconds": 1 + i / 10, "faces": [{}, {}]} for i in range(20)]
    lines += [{"status": "failed", "seconds": 99, "faces": []}]
    (tmp_path / "results.jsonl").write_text("\n".join(map(json.dumps, lines)))
    given = ["--results", str(tmp_path / "results.jsonl"), "--output", str(tmp_path / "out"), "--photos", "500"]
    assert main([*given, "--workers", "8"]) == 0
    facts = json.loads((tmp_path / "out" / "fleet.json").read_text())
    assert facts["mean_seconds"] == pytest.approx(1.95)
    assert facts["cost_per_million_faces"] == pytest.approx(1.95 / 2 * 1e6 / 3600 * 2 * 0.04)
    assert {row["case"] for row in facts["runs"]} >= {"equal machines", "some slow, some die"}
    chart = xml.dom.minidom.parse(str(tmp_path / "out" / "fleet.svg"))
    assert len(chart.getElementsByTagName("polyline")) == 4
    assert "efficiency" in capsys.readouterr().out


def test_results_in_which_nothing_went_through_are_refused(tmp_path):
    (tmp_path / "results.jsonl").write_text(json.dumps({"status": "failed", "seconds": 1, "faces": []}))
    with pytest.raises(ValueError, match="no photo"):
        seconds_of([tmp_path / "results.jsonl"])


def test_a_chart_of_one_size_is_a_chart():
    assert svg({"a": [(4, 0.5)]}, "x").startswith("<svg")

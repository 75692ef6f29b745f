"""Planted networks from end to end: what was planted is what is found, and errors are counted rightly."""

import math
from dataclasses import astuple, replace
from functools import lru_cache

import pytest

import tiny
from maskscope.analysis.intervals import Interval
from maskscope.experiments import experiments
from maskscope.report import calibration as shown
from maskscope.report.html import write_report
from maskscope.report.load import Found, find
from maskscope.report.paper import write_figures
from maskscope.runs.calibration import Recovered, Truth, calibration, recovered, truth
from maskscope.runs.pipeline import Runner
from maskscope.runs.significance import significance
from maskscope.runs.store import folder_of

pytestmark = pytest.mark.xdist_group("calibration")  # its networks are trained once, in one process


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("planted")
    other = replace(
        tiny.PLANTED, variant="cnn-0", title="cnn, 0% shared", network=replace(tiny.PLANTED.network, shared=0.0)
    )
    for experiment in (tiny.PLANTED, other):
        Runner(experiment, 0, folder_of(root, experiment, 0), lambda tick: None).run()
    return root


def test_what_was_planted_is_found(root):
    found = {run.experiment.network.shared: recovered(run.experiment, run.results)[0] for run in find(root).runs}
    for shared, item in found.items():
        assert item.iou.mean == pytest.approx(item.truth.iou, abs=0.15), shared
        assert item.iomin.mean == pytest.approx(item.truth.iomin, abs=0.15), shared
        assert item.p_specialize == pytest.approx(item.truth.p_specialize, abs=0.2), shared
    assert found[0.0].iou.mean < found[0.5].iou.mean


def test_a_report_has_found_against_true(root, tmp_path):
    page = write_report(find(root), tmp_path / "report.html", "planted").read_text(encoding="utf-8")
    for text in ("Found against true", "Calibration", "Found at every level"):
        assert text in page
    assert "calibration.pdf" in {path.name for path in write_figures(find(root), tmp_path / "figures")}


def test_a_page_about_many_networks_has_no_figures_of_each(root, tmp_path):
    found = find(root)
    many = Found(found.runs * 13, ())
    page = write_report(many, tmp_path / "many.html", "many").read_text(encoding="utf-8")
    assert "Found against true" in page
    assert "Learning curves" not in page
    assert "26 networks: figures of each are left out" in page


def test_significance_is_of_every_part_and_corrected(root):
    for run in find(root).runs:
        found = significance(run.experiment, run.results)
        assert {item.where for item in found} == {item.overlap.where for item in run.results[0].overlaps}
        assert all(math.isnan(item.ceiling) for item in found)  # one network: three namings
        for item in found:
            assert 0 < item.chance <= item.chance_corrected <= 1 or math.isnan(item.chance)


def test_truth_is_of_planted_networks_only():
    assert truth(tiny.FNN) is None
    assert recovered(tiny.FNN, []) == ()
    assert shown.chart({}) is None
    assert shown.table({}) is None
    assert shown.levels({}) is None


def test_truth_follows_the_fraction_whatever_is_shared():
    for experiment in experiments("planted", "standard"):
        found = truth(experiment)
        fraction = experiment.network.shared
        assert found.iou == pytest.approx(fraction / (2 - fraction), abs=0.05)
        assert found.iomin == pytest.approx(fraction, abs=0.08)
        assert found.p_specialize == pytest.approx(1 - _harmed(experiment.network), abs=0.05), experiment.variant


@lru_cache
def _harmed(settings):
    """What the second subtask loses without the first one's modules, by how many of its own weights are left: of its problems
    those whose module has lost any hidden weight."""
    first, second = settings.supports()
    hidden = [name for name in first if first[name].ndim > 1 and name not in (*settings.ends, "position.weight")]
    lost = sum(int((first[name] & second[name]).sum()) for name in hidden)
    own = sum(int(second[name].sum()) for name in hidden)
    return float(lost > 0) if settings.by == "layers" else lost / own


def test_every_planted_network_has_a_name_and_settings_of_its_own():
    for preset in ("quick", "standard", "paper"):
        every = experiments("planted", preset)
        assert len({experiment.variant for experiment in every}) == len(every)
        assert len({experiment.digest for experiment in every}) == len(every)


def test_each_error_says_of_how_many_networks_it_is():
    interval, none = Interval(0.3, 0.2, 0.4, 4, "masks"), Interval(math.nan, math.nan, math.nan, 0, "nothing")
    whole, half = (
        Recovered(0, Truth(0.3, 0.5, 0.5), interval, iomin, 0.5, "partly shared") for iomin in (interval, none)
    )
    grid = shown.table({"mlp": [whole, half]})
    assert grid.rows[0][2:4] == ("0.000", "0.200 (1 of 2)")


def test_errors_and_wrong_verdicts_are_counted():
    def one(iou, true, finding):
        interval = Interval(iou, iou, iou, 4, "masks")
        return Recovered(0, Truth(true, true, 1 - true), interval, interval, 1 - true, finding)

    found = calibration(
        [
            one(0.1, 0.0, "separate"),
            one(0.9, 0.0, "shared"),
            one(0.2, 1.0, "separate"),
            one(1.0, 1.0, "shared"),
            one(math.nan, 0.5, "cannot tell"),
        ]
    )
    assert astuple(found) == pytest.approx((5, 4, 0.45, 4, 0.45, 5, 0.0, 2, 1, 2, 1, 1))

"""The quick preset as make demo runs it: the paper's pattern, and the control that must come out the other way."""

import pytest
from rich.console import Console

from maskscope.experiments import experiments
from maskscope.report.load import find
from maskscope.runs.estimates import accuracy, reuse_in
from maskscope.runs.jobs import Job, run_jobs
from maskscope.runs.results import HIDDEN
from maskscope.runs.verdict import verdict


@pytest.mark.slow
def test_trained_networks_keep_the_pairs_apart_and_the_copied_one_does_not(tmp_path):
    chosen = experiments("double-addition", "quick")
    run_jobs([Job(item, 0, tmp_path, 1) for item in chosen], 2, Console(stderr=True))
    runs = {run.experiment.variant: run for run in find(tmp_path).runs}
    for run in runs.values():
        first, second = run.experiment.data.subtasks
        for own, other in ((first, second), (second, first)):
            assert accuracy(run.results, "full network", own).mean >= 0.99
            assert accuracy(run.results, "mask", own, own).mean >= 0.96
            assert accuracy(run.results, "mask", other, own).mean <= 0.03
            assert accuracy(run.results, "complement", own, own).mean <= 0.30
    for variant in ("fnn", "lstm"):
        found = reuse_in(runs[variant].results, HIDDEN, runs[variant].experiment.data.subtasks)
        assert found.iou.between.mean < 0.4 * found.iou.ceiling.mean
        assert verdict(runs[variant].experiment, runs[variant].results).finding == "separate"
    copied = runs["fnn-copied"]
    found = reuse_in(copied.results, HIDDEN, copied.experiment.data.subtasks)
    assert found.iou.between.mean > 0.9 * found.iou.ceiling.mean
    assert verdict(copied.experiment, copied.results).finding == "shared"

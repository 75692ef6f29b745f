"""Addition and multiplication: the data is right and is the published one; outcomes count ambiguous results twice."""

import pytest
import torch

from maskscope.data.add_mul import AddMul, answers

DATA = AddMul("once", train=2000, valid=500)


def numbers(batch):
    """Digits back to numbers: (example, number)."""
    digits = batch.inputs[:, :40].view(-1, 2, 2, 10).argmax(-1)
    return digits[..., 0] + 10 * digits[..., 1]


def whole(digits):
    return digits[..., 0] + 10 * digits[..., 1]


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_results_are_sum_and_product_modulo_100_and_the_operation_says_which_counts(split):
    for batch in DATA.tests(split):
        a, b = numbers(batch).unbind(1)
        assert torch.equal(whole(batch.results), torch.stack([(a + b) % 100, a * b % 100], 1))
        assert torch.equal(batch.inputs[:, 40:].argmax(1), batch.asked)
        assert torch.equal(batch.inputs.sum(1), torch.full((len(a),), 5.0))
        assert torch.equal(whole(batch.targets), torch.where(batch.asked == 0, (a + b) % 100, a * b % 100))


def test_the_published_counts_come_out():
    """All 20,000 problems occur in training, and all 7,867 distinct ones of validation do."""
    full = AddMul("once")

    def keys(split, subtask=None):
        found = full.tests(split, subtask, size=200_000)
        return torch.cat([(numbers(b)[:, 0] * 100 + numbers(b)[:, 1]) * 2 + b.asked for b in found])

    assert (len(keys("train", "+")), len(keys("train", "*"))) == (499_448, 500_552)
    train, valid = (set(keys(split).tolist()) for split in ("train", "valid"))
    assert (len(train), len(valid), len(valid - train)) == (20_000, 7_867, 0)


@pytest.mark.parametrize(("subtask", "asked"), [("+", {0}), ("*", {1}), ("both operations", {0, 1})])
def test_a_subtask_has_its_own_problems_only(subtask, asked):
    for batch in (DATA.batches("train", 64, 0, subtask)(3), *DATA.tests("valid", subtask)):
        assert set(batch.asked.tolist()) == asked
    assert sum(len(b.asked) for s in DATA.subtasks for b in DATA.tests("valid", s)) == 500


def test_batches_are_a_function_of_seed_and_step():
    batches = DATA.batches("train", 16, seed=3, subtask="+")
    assert torch.equal(batches(5).inputs, DATA.batches("train", 16, seed=3, subtask="+")(5).inputs)
    assert not torch.equal(batches(5).inputs, batches(6).inputs)


def saying(digits):
    """A network that always gives the same answer."""
    outputs = torch.nn.functional.one_hot(torch.tensor(digits), 10).float().flatten()
    return lambda inputs: outputs.expand(len(inputs), 20)


def test_outcomes_against_brute_force_with_ambiguous_answers():
    data = AddMul("once", valid=5000)
    batch = data.tests("valid", size=5000)[0]
    a, b = numbers(batch).unbind(1)
    for said in (0, 4, 25):
        network = saying([said % 10, said // 10])
        counts = dict(zip(data.outcomes, data.outcome()(network, batch).unbind(1), strict=True))
        is_sum, is_product = (a + b) % 100 == said, a * b % 100 == said
        assert torch.equal(counts["result of +"], is_sum.float())
        assert torch.equal(counts["result of *"], is_product.float())
        assert torch.equal(counts["neither"], (~(is_sum | is_product)).float())
    assert (is_sum | is_product).any()
    both = ((a + b) % 100 == a * b % 100).sum()
    assert both > 0  # 0 and 0, 2 and 2, ...
    right = data.metric("+")(saying([4, 0]), batch)
    assert torch.equal(right.bool(), torch.where(batch.asked == 0, (a + b) % 100, a * b % 100) == 4)


def test_a_recurrent_network_sees_the_problem_three_times_and_is_read_at_the_last():
    seen = []

    def network(steps):
        seen.append(steps)
        return torch.arange(3.0).view(1, 3, 1).expand(len(steps), 3, 20)

    inputs = DATA.tests()[0].inputs
    assert bool((answers(network, inputs, "last") == 2).all())
    assert torch.equal(seen[0], inputs.unsqueeze(1).expand(-1, 3, -1))


def test_an_unknown_subtask_is_refused():
    with pytest.raises(KeyError, match="no subtask 'minus'"):
        DATA.batches("train", 4, 0, "minus")

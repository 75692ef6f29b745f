"""Double addition: the data is right, the modes show and read what they say."""

import pytest
import torch

from maskscope.data.double_addition import DoubleAddition, answers

DATA = DoubleAddition("separate", train=2000, valid=500)


def numbers(batch):
    """Digits back to numbers: (example, pair, number)."""
    digits = batch.inputs.view(-1, 2, 2, 2, 10).argmax(-1)
    return digits[..., 0] + 10 * digits[..., 1]


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_targets_are_the_sums_modulo_100(split):
    for batch in DATA.tests(split):
        sums = numbers(batch).sum(-1) % 100
        assert torch.equal(batch.sums[..., 0] + 10 * batch.sums[..., 1], sums)
        assert torch.equal(batch.inputs.sum(1), torch.full((len(sums),), 8.0))


def test_splits_differ_and_numbers_cover_0_to_99():
    train, valid = (numbers(DATA.tests(split)[0]) for split in ("train", "valid"))
    assert not torch.equal(train[:500], valid[:500])
    assert (train.min(), train.max()) == (0, 99)


def test_the_published_sizes_cover_every_single_pair_and_share_about_100_problems():
    full = DoubleAddition("separate")
    train = torch.cat([numbers(batch) for batch in full.tests("train", size=100_000)])
    for pair in (0, 1):
        assert len(torch.unique(train[:, pair, 0] * 100 + train[:, pair, 1])) == 10_000
    powers = torch.tensor([10**6, 10**4, 100, 1])
    key = {int(k) for k in (train.flatten(1) * powers).sum(1)}
    valid = torch.cat([numbers(batch) for batch in full.tests("valid")])
    common = sum(int(k) in key for k in (valid.flatten(1) * powers).sum(1))
    assert 60 <= common <= 140  # 10,000 x 1,000,000 / 10^8 expected; the published data has 100


def test_batches_are_a_function_of_seed_and_step():
    batches = DATA.batches("train", 16, seed=3)
    assert torch.equal(batches(5).inputs, DATA.batches("train", 16, seed=3)(5).inputs)
    assert not torch.equal(batches(5).inputs, batches(6).inputs)
    assert not torch.equal(batches(5).inputs, DATA.batches("train", 16, seed=4)(5).inputs)


def recorder(steps: bool):
    """A network that notes what it is shown."""
    shown = []

    def network(x):
        shown.append(x)
        return torch.arange(40.0).expand(*x.shape[:-1], 40) + (torch.arange(x.shape[1])[:, None] * 100 if steps else 0)

    return shown, network


def test_separate_shows_one_pair_at_a_time():
    shown, network = recorder(steps=False)
    x = DATA.tests()[0].inputs
    read = answers(network, x, "separate", (0, 1))
    assert [bool(s[:, :40].any()) for s in shown] == [True, False]
    assert [bool(s[:, 40:].any()) for s in shown] == [False, True]
    assert torch.equal(shown[0] + shown[1], x)
    assert read[0].flatten().tolist() == list(range(40))


def test_together_shows_all_six_times_and_reads_the_last():
    shown, network = recorder(steps=True)
    x = DATA.tests()[0].inputs
    read = answers(network, x, "together", (0, 1))
    assert torch.equal(shown[0], x.unsqueeze(1).expand(-1, 6, -1))
    assert read[0].flatten().tolist() == [500 + i for i in range(40)]


def test_forced_shows_each_pair_for_three_steps_and_reads_at_their_end():
    shown, network = recorder(steps=True)
    x = DATA.tests()[0].inputs
    read = answers(network, x, "forced", (0, 1))
    assert not shown[0][:, :3, 40:].any()
    assert not shown[0][:, 3:, :40].any()
    assert torch.equal(shown[0][:, 0] + shown[0][:, 5], x)
    assert read[0, 0].flatten().tolist() == [200 + i for i in range(20)]
    assert read[0, 1].flatten().tolist() == [500 + i for i in range(20, 40)]


@pytest.mark.parametrize("mode", ["only-one", "same-input", "same-output", "same-io"])
def test_other_modes_show_and_read_what_they_say(mode):
    data, shown = DoubleAddition(mode, train=10, valid=10), []

    def network(steps):
        shown.append(steps)
        places = torch.arange(float(data.outputs)) + torch.arange(6)[:, None] * 100
        return places.expand(len(steps), 6, data.outputs)

    x = data.tests()[0].inputs
    read = answers(network, x, mode, (0, 1))[0].flatten(1).tolist()
    first, second = x[:, :40], x[:, 40:]
    nothing = torch.zeros_like(first)
    at = {
        "only-one": ([first, nothing], [nothing, second]),
        "same-input": ([first], [second]),
        "same-output": ([first, second], [first, second]),
        "same-io": ([first], [second]),
    }[mode]
    for step in range(6):
        assert torch.equal(shown[0][:, step], torch.cat(at[step // 3], 1))
    assert shown[0].shape[-1] == data.inputs
    twenty = list(range(20))
    if mode in ("same-output", "same-io"):
        read_from = [[200 + i for i in twenty], [500 + i for i in twenty]]
    else:
        read_from = [[500 + i for i in twenty], [520 + i for i in twenty]]
    assert read == read_from
    answers(network, x, mode, (1,), hide_others=True)
    hidden = shown[1][:, :3] if data.inputs == 40 else shown[1][..., :40]
    assert not hidden.any()


def test_masks_of_the_lstm_are_learned_with_the_other_input_hidden_and_tested_with_both():
    shown, network = recorder(steps=True)
    data = DoubleAddition("together", train=10, valid=10)
    data.objective("pair 2")(network, data.tests()[0])
    data.metric("pair 2")(network, data.tests()[0])
    data.objective("both pairs")(network, data.tests()[0])
    assert [bool(s[..., :40].any()) for s in shown] == [False, True, True]


def test_an_unknown_subtask_is_refused():
    with pytest.raises(KeyError, match="no subtask 'pair 3'"):
        DATA.objective("pair 3")

"""Everything on a GPU: the same masks as on the CPU, and whole experiments. Skipped where torch sees none."""

import pytest
import torch

import tiny
from maskscope.analysis.compare import iou
from maskscope.analysis.evaluate import evaluate
from maskscope.core.apply import applied, bake, masked
from maskscope.core.device import device_of
from maskscope.core.granularity import PerOutput, PerWeight
from maskscope.core.layout import layout
from maskscope.core.learning.learn import learn_mask, learning
from maskscope.core.learning.logits import Logits
from maskscope.core.learning.schedules import Schedule
from maskscope.core.objectives import accuracy, cross_entropy
from maskscope.core.seeded import seeded
from maskscope.models.mlp import MLP
from maskscope.runs.continual import ContinualRunner
from maskscope.runs.pipeline import Runner
from maskscope.runs.results import MaskName
from maskscope.runs.store import folder_of
from zoo import ZOO

GPU = torch.device("cuda")
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
    pytest.mark.filterwarnings("ignore:.*keeps everything.*", "ignore:.*is not settled.*"),
    pytest.mark.filterwarnings("ignore:.*RNN module weights are not part.*:UserWarning"),
]


def blobs(examples: int = 256):
    """Four classes that two of ten inputs tell apart."""
    with seeded(3):
        inputs = torch.randn(examples, 10)
    return inputs, (inputs[:, 0] > 0).long() + 2 * (inputs[:, 1] > 0).long()


def trained(device="cpu"):
    with seeded(0):
        model = MLP(10, (64, 64), 4)
        adam = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(200):
            adam.zero_grad()
            cross_entropy(model, blobs()).backward()
            adam.step()
    return model.to(device)


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("kernel", ["eager", "compiled"])
@pytest.mark.parametrize("low_memory", [False, True])
def test_a_mask_is_the_one_that_the_cpu_learns(kernel, low_memory, cuda_graph):
    settings = {"schedule": Schedule(steps=300), "penalty": 1e-4, "kernel": kernel, "low_memory": low_memory}
    here = learn_mask(trained(), [blobs()], cross_entropy, **settings)
    # The batch is brought to the network.
    there = learn_mask(trained(GPU), [blobs()], cross_entropy, cuda_graph=cuda_graph, **settings)
    assert 0.02 < here.mask.density < 0.7
    assert iou(here.mask, there.mask) > 0.9


@pytest.mark.parametrize("kind", ZOO, ids=str)
@pytest.mark.parametrize("grain", [PerWeight(), PerOutput()], ids=lambda grain: grain.kind)
def test_every_kind_of_network_moves_its_logits_as_on_the_cpu(kind, grain):
    moved = []
    for device in ("cpu", GPU):
        model = kind.model().to(device)
        over = layout(model, granularity=grain)
        schedule = Schedule(steps=3, samples=2, warmup=0.0)
        for state in learning(model, [kind.batch()], kind.loss, layout=over, schedule=schedule, penalty=0.0):
            assert torch.isfinite(state.loss)
        moved.append(state.logits.values.cpu() - 2.0)
    same = torch.isclose(*moved, rtol=0.05, atol=2e-3).float().mean()
    assert same > 0.97  # Adam moves a logit whose gradient is about zero either way


@pytest.mark.parametrize("slope", ["expected", "sampled"])
@pytest.mark.parametrize("kind", ZOO, ids=str)
def test_a_captured_step_is_the_step(kind, slope):
    """Other batches each time, and one of another size between them."""

    def batches(step):
        rows = torch.randperm(8, generator=torch.Generator().manual_seed(step))
        return kind.batch()[rows[: 6 if step == 7 else 8]]

    moved = []
    for captured in (False, True):
        model = kind.model().to(GPU)
        over = layout(model, granularity=PerOutput() if slope == "sampled" else PerWeight())
        settings = {"schedule": Schedule(steps=14, samples=2, slope=slope, settled=None), "penalty": 1e-6}
        losses = []
        for state in learning(model, batches, kind.loss, layout=over, cuda_graph=captured, **settings):
            losses.append(float(state.loss))
        moved.append((state.logits.values.cpu(), torch.tensor(losses)))
    torch.testing.assert_close(moved[0][1], moved[1][1], rtol=1e-4, atol=1e-5)
    assert torch.isclose(moved[0][0], moved[1][0], atol=2e-2).float().mean() > 0.95


def test_what_cannot_be_captured_says_so():
    def objective(network, batch):
        loss = cross_entropy(network, batch)
        return loss * float(loss.detach() > 0)

    with pytest.raises(RuntimeError, match="cannot be captured as a CUDA graph"):
        learn_mask(trained(GPU), [blobs()], objective, schedule=Schedule(steps=8), cuda_graph=True)
    assert torch.rand(2, device=GPU).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_learn(dtype):
    model, (inputs, labels) = trained(GPU).to(dtype), blobs()
    learned = learn_mask(model, [(inputs.to(dtype), labels)], cross_entropy, schedule=Schedule(steps=20))
    assert learned.logits.isfinite().all()


def test_a_network_under_a_mask_takes_batches_from_the_cpu():
    model, batches = trained(GPU), [blobs()]
    learned = learn_mask(model, batches, cross_entropy, schedule=Schedule(steps=300), penalty=1e-4)
    full, alone = (evaluate(network, batches, accuracy).value for network in (model, masked(model, learned.mask)))
    assert full > 0.95
    assert alone > 0.9
    pruned = bake(model, learned.mask)
    assert device_of(pruned) == device_of(model)
    with applied(model, learned.mask) as network:
        assert evaluate(network, batches, accuracy).value == evaluate(pruned, batches, accuracy).value


def test_learning_goes_on_from_a_saved_state():
    model, batches, schedule = trained(GPU), [blobs()], Schedule(steps=40)
    whole = learn_mask(model, batches, cross_entropy, schedule=schedule)
    over = layout(model)
    first = Logits(over, schedule, GPU)
    for state in learning(model, batches, cross_entropy, layout=over, schedule=schedule, resume=first):
        if state.step == 15:
            break
    saved = {name: tensor.cpu() for name, tensor in first.state().items()}
    second = Logits(over, schedule, GPU)
    second.restore(saved)
    again = learn_mask(model, lambda step: batches[0], cross_entropy, schedule=schedule, resume=second)
    torch.testing.assert_close(again.logits, whole.logits, rtol=0, atol=1e-3)


@pytest.mark.usefixtures("_tiny_data")
@pytest.mark.parametrize(
    "experiment",
    [*tiny.EVERY, tiny.SCAN_LSTM, tiny.SCAN_TRANSFORMER, tiny.CIFAR10, tiny.PRETRAINED, tiny.PLANTED],
    ids=lambda experiment: f"{experiment.name}-{experiment.variant}",
)
def test_experiments_run_stop_and_go_on(experiment, tmp_path):
    folder = folder_of(tmp_path, experiment, 0)

    def press(tick):
        if not tick.done and "mask" in tick.phase:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Runner(experiment, 0, folder, press, device=GPU, checkpoint_seconds=0.0, tell_seconds=0.0).run()
    results = Runner(experiment, 0, folder, lambda tick: None, device=GPU).run()
    tested = {item.mask for item in results.accuracies if item.network == "mask"}
    assert tested == {MaskName(*name) for name in experiment.masks()}


@pytest.mark.usefixtures("_tiny_data")
def test_permutations_are_learned_in_turn(tmp_path):
    results = ContinualRunner(
        tiny.CONTINUAL, 0, folder_of(tmp_path, tiny.CONTINUAL, 0), lambda tick: None, device=GPU
    ).run()
    assert len(results.tasks) == tiny.CONTINUAL.data.permutations

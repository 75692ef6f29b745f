"""The networks that are timed: what is trained, on what, and which parameters are masked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

import maskscope as ms
from maskscope.core.device import onto
from maskscope.core.seeded import seeded
from maskscope.models.lstm import LSTM
from maskscope.models.mlp import MLP


@dataclass(frozen=True)
class Case:
    """One network with a batch and its loss."""

    name: str
    model: nn.Module
    batch: Any
    objective: Callable[[Any, Any], Tensor]
    layout: ms.Layout


class CNN(nn.Module):
    """The paper's network for CIFAR-10 without dropout: four convolutions, global mean, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in [(3, 32), (32, 64), (64, 128), (128, 256)])
        self.output = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        for i, conv in enumerate(self.convs):
            x = conv(x).relu()
            if i < 3:
                x = functional.max_pool2d(x, 2)
        return self.output(x.mean((2, 3)))


def attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """Softmax attention written out, as at the time of the paper."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if causal:
        scores = scores + scores.new_full(scores.shape[-2:], -torch.inf).triu(1)
    return scores.softmax(-1) @ v


class Attention(nn.Module):
    """Four heads."""

    def __init__(self, width: int = 100) -> None:
        super().__init__()
        self.q, self.k, self.v, self.output = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, memory: Tensor, *, causal: bool = False) -> Tensor:
        q, k, v = (
            layer(s).unflatten(-1, (4, -1)).transpose(1, 2)
            for layer, s in ((self.q, x), (self.k, memory), (self.v, memory))
        )
        return self.output(attention(q, k, v, causal=causal).transpose(1, 2).flatten(-2))


class Block(nn.Module):
    """A layer of the encoder or the decoder."""

    def __init__(self, *, decoder: bool) -> None:
        super().__init__()
        self.attention = Attention()
        self.linear1, self.linear2 = nn.Linear(100, 200), nn.Linear(200, 100)
        self.norm1, self.norm2 = nn.LayerNorm(100), nn.LayerNorm(100)
        self.cross, self.norm3 = (Attention(), nn.LayerNorm(100)) if decoder else (None, None)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        x = self.norm1(x + self.attention(x, x, causal=memory is not None))
        if self.cross is not None and self.norm3 is not None and memory is not None:
            x = self.norm3(x + self.cross(x, memory))
        return self.norm2(x + self.linear2(self.linear1(x).relu()))


class Seq2Seq(nn.Module):
    """The paper's Transformer for SCAN: d 100, 4 heads, 3 + 3 layers, feed-forward 200; layers written out."""

    def __init__(self, vocabulary: int = 20) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 100)
        self.encoder = nn.ModuleList(Block(decoder=False) for _ in range(3))
        self.decoder = nn.ModuleList(Block(decoder=True) for _ in range(3))
        self.output = nn.Linear(100, vocabulary)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        x, y = self.embedding(source), self.embedding(target)
        for block in self.encoder:
            x = block(x)
        for block in self.decoder:
            y = block(y, x)
        return self.output(y)


def _translation(network: Any, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    source, target, labels = batch
    return functional.cross_entropy(network(source, target).flatten(0, 1), labels.flatten())


def _last_step(network: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    inputs, labels = batch
    return functional.cross_entropy(network(inputs)[:, -1], labels)


def _huggingface(network: Any, batch: dict[str, Tensor]) -> Tensor:
    return network(**batch).loss


def fnn(width: int, batch: int = 128) -> Case:
    """The paper's feed-forward network."""
    model = MLP(80, (width,) * 4, 40)
    data = (torch.rand(batch, 80), torch.randint(0, 40, (batch,)))
    return Case(f"FNN 4x{width}", model, data, ms.cross_entropy, ms.layout(model))


def lstm(batch: int = 128) -> Case:
    """The paper's LSTM, six steps."""
    model = LSTM(80, 256, 2, 40)
    data = (torch.rand(batch, 6, 80), torch.randint(0, 40, (batch,)))
    return Case("LSTM 2x256", model, data, _last_step, ms.layout(model))


def cnn(batch: int = 128) -> Case:
    """The paper's CNN; biases are masked too."""
    model = CNN()
    data = (torch.rand(batch, 3, 32, 32), torch.randint(0, 10, (batch,)))
    return Case("CNN", model, data, ms.cross_entropy, ms.layout(model, ["*"]))


def transformer(batch: int = 256) -> Case:
    """The paper's Transformer: commands of 9 words, actions of 32."""
    model = Seq2Seq()
    data = (torch.randint(0, 20, (batch, 9)), torch.randint(0, 20, (batch, 32)), torch.randint(0, 20, (batch, 32)))
    return Case("Transformer d100", model, data, _translation, ms.layout(model))


def bert() -> Case:
    """A small BERT, 16 x 64 tokens."""
    config = BertConfig(
        vocab_size=4096,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertForSequenceClassification(config)
    data = {"input_ids": torch.randint(0, 4096, (16, 64)), "labels": torch.randint(0, 2, (16,))}
    return Case("BERT 4x256", model, data, _huggingface, ms.layout(model))


def gpt2() -> Case:
    """A small GPT-2, 16 x 64 tokens."""
    config = GPT2Config(
        vocab_size=4096,
        n_embd=256,
        n_layer=4,
        n_head=4,
        n_positions=64,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = GPT2LMHeadModel(config)
    tokens = torch.randint(0, 4096, (16, 64))
    return Case("GPT-2 4x256", model, {"input_ids": tokens, "labels": tokens}, _huggingface, ms.layout(model))


CASES: dict[str, Callable[[], Case]] = {
    "fnn800": lambda: fnn(800),
    "fnn2000": lambda: fnn(2000),
    "lstm": lstm,
    "cnn": cnn,
    "transformer": transformer,
    "bert": bert,
    "gpt2": gpt2,
}


def case(name: str, device: str = "cpu") -> Case:
    """A network by name, initialised from a fixed seed."""
    with seeded(0):
        made = CASES[name]()
    return replace(made, model=made.model.to(device), batch=onto(made.batch, torch.device(device)))

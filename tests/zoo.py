"""Networks of every kind, small, for the contract tests: a name, how to build one, a batch for it and its outputs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from maskscope.core.seeded import seeded
from maskscope.models.lstm import LSTM
from maskscope.models.mlp import MLP


class Tied(nn.Module):
    """An embedding whose weights are used again for the output, and a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.mix = nn.Linear(6, 6)
        self.scale = nn.Parameter(torch.randn(6))
        self.out = nn.Linear(6, 7, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(torch.tanh(self.mix(self.embed(tokens))) * self.scale)


class Attention(nn.Module):
    """Multi-head attention with its fused in-projection, and layer norm."""

    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.attend(x, x, x)[0])


class Convolutions(nn.Module):
    """Plain, grouped and transposed convolutions, batch norm, dropout."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(2, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv2d(4, 4, 1, groups=2),
            nn.ConvTranspose2d(4, 2, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Recurrent(nn.Module):
    """A stacked bidirectional LSTM with dropout and a GRU."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, 2, batch_first=True, dropout=0.5, bidirectional=True)
        self.gru = nn.GRU(8, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(self.lstm(x)[0])[0]


@dataclass(frozen=True)
class Kind:
    """One kind of network."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    output: Callable[[Any], Tensor] = lambda out: out

    def model(self) -> nn.Module:
        with seeded(0):
            return self.build()

    def batch(self) -> Tensor:
        with seeded(1):
            return self.inputs()

    def __str__(self) -> str:
        return self.name


def _floats(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(*shape)


def _tokens(high: int, *shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(0, high, shape)


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2))


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(
            vocab_size=11,
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=8,
        )
    )


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=11,
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=8,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=8,
            patch_size=4,
            num_channels=1,
        )
    )


ZOO = (
    Kind("mlp", lambda: MLP(6, (8, 8), 4), _floats(8, 6)),
    Kind("paper-lstm", lambda: LSTM(5, 16, 2, 4), _floats(8, 3, 5)),
    Kind("recurrent", Recurrent, _floats(8, 3, 3)),
    Kind("convolutions", Convolutions, _floats(8, 2, 6, 6)),
    Kind("attention", Attention, _floats(8, 3, 8)),
    Kind("encoder", lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), _floats(8, 3, 8)),
    Kind("tied", Tied, _tokens(7, 8)),
    Kind("gpt2", gpt2, _tokens(11, 8, 5), lambda out: out.logits),
    Kind("bert", bert, _tokens(11, 8, 5), lambda out: out.logits),
    Kind("llama", llama, _tokens(11, 8, 5), lambda out: out.logits),
    Kind("vit", vit, _floats(8, 1, 8, 8), lambda out: out.logits),
)
"""Every kind of network; a new one is a new row."""

"""Networks of every kind, small, for the contract tests: a name, how to build one, a batch for it, its outputs and a loss."""

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


@dataclass(frozen=True)
class Kind:
    """One kind of network."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    outputs: Callable[[Any, Tensor], Tensor] = lambda network, batch: network(batch)
    """Of a network of this kind, masked or not, for a batch."""

    def model(self) -> nn.Module:
        with seeded(0):
            return self.build()

    def batch(self) -> Tensor:
        with seeded(1):
            return self.inputs()

    def loss(self, network: Any, batch: Tensor) -> Tensor:
        """An objective that needs no labels."""
        return self.outputs(network, batch).float().square().mean()

    def __str__(self) -> str:
        return self.name


def _floats(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(*shape)


def _tokens(high: int, *shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(0, high, shape)


def _logits(network: Any, batch: Tensor) -> Tensor:
    return network(batch).logits


def _first(network: Any, batch: Tensor) -> Tensor:
    return network(batch)[0]


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


def t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=11,
            d_model=8,
            d_kv=4,
            d_ff=16,
            num_layers=1,
            num_heads=2,
            relative_attention_num_buckets=4,
            decoder_start_token_id=0,
        )
    )


ZOO = (
    Kind("mlp", lambda: MLP(6, (8, 8), 4), _floats(8, 6)),
    Kind("paper-lstm", lambda: LSTM(5, 16, 2, 4), _floats(8, 3, 5)),
    Kind(
        "lstm",
        lambda: nn.LSTM(3, 4, 2, batch_first=True, dropout=0.5, bidirectional=True),
        _floats(8, 3, 3),
        _first,
    ),
    Kind("gru", lambda: nn.GRU(3, 4, batch_first=True), _floats(8, 3, 3), _first),
    Kind("convolutions", Convolutions, _floats(8, 2, 6, 6)),
    Kind("attention", Attention, _floats(8, 3, 8)),
    Kind(
        "encoder",
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1),
        _floats(8, 3, 8),
    ),
    Kind("tied", Tied, _tokens(7, 8)),
    Kind("gpt2", gpt2, _tokens(11, 8, 5), _logits),
    Kind("bert", bert, _tokens(11, 8, 5), _logits),
    Kind("llama", llama, _tokens(11, 8, 5), _logits),
    Kind(
        "t5",
        t5,
        _tokens(11, 8, 5),
        lambda network, tokens: network(input_ids=tokens, decoder_input_ids=tokens.flip(1)).logits,
    ),
    Kind("vit", vit, _floats(8, 1, 8, 8), _logits),
)
"""Every kind of network; a new one is a new row."""

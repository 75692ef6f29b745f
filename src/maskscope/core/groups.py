"""Units that switch slices of several parameters at once: attention heads, neurons, whole layers, or what you name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from maskscope.core.granularity import Index, View, axes
from maskscope.core.select import Site, by_layer, is_bias, select, sites

Group = Mapping[str, View] | Mapping[str, Index]
"""Parameters by name, each cut into the same number of units; unit i switches slice i of every one of them."""


@runtime_checkable
class Grouping(Protocol):
    """A granularity whose units lie over several parameters."""

    @property
    def kind(self) -> str:
        """What a unit is called."""
        ...

    def groups(self, model: nn.Module) -> Sequence[Group]:
        """All groups of parameters; a layout leaves out what was not selected."""
        ...


Cut = Literal["outputs", "inputs", "halves", "thirds"]
"""Which axis of a matrix is cut into units; thirds: an output axis that holds queries, keys and values one after another; halves:
one that holds keys and values."""

_STACKED: Mapping[Cut, int] = {"halves": 2, "thirds": 3}
"""How many matrices lie one after another in one."""

Parts = Mapping[str, tuple[Site, Cut]]
"""Parameters by name, and how each is cut."""

Cutting = Callable[[nn.Module, Parts], Group]

_LEAVES = ("weight", "bias", "base_layer.weight", "base_layer.bias")
"""Parameters of a part, also of one that peft has put an adapter beside."""

_HEADS: tuple[Mapping[str, Cut], ...] = (
    {"q_proj": "outputs", "k_proj": "outputs", "v_proj": "outputs", "in_proj": "thirds", "out_proj": "inputs"},
    {"in_proj": "thirds", "out_proj": "inputs"},
    {"q_proj": "outputs", "k_proj": "outputs", "v_proj": "outputs", "o_proj": "inputs"},
    {"q_proj": "outputs", "k_proj": "outputs", "v_proj": "outputs", "out_proj": "inputs"},
    {"self.query": "outputs", "self.key": "outputs", "self.value": "outputs", "output.dense": "inputs"},
    {"attention.query": "outputs", "attention.key": "outputs", "attention.value": "outputs", "output.dense": "inputs"},
    {"q": "outputs", "k": "outputs", "v": "outputs", "o": "inputs"},
    {"q_lin": "outputs", "k_lin": "outputs", "v_lin": "outputs", "out_lin": "inputs"},
    {"q_attn": "outputs", "c_attn": "halves", "c_proj": "inputs"},
    {"c_attn": "thirds", "c_proj": "inputs"},
    {"query_key_value": "outputs", "dense": "inputs"},
)
"""Attention by the names of its parts, relative to the module that has them all: torch's, Llama/Qwen/Mistral/ViT, OPT/BART, BERT,
older ViT, T5, DistilBERT, GPT-2 (its attention to an encoder first), GPT-NeoX (whose fused rows are head by head)."""

_NEURONS: tuple[Mapping[str, Cut], ...] = (
    {"gate_proj": "outputs", "up_proj": "outputs", "down_proj": "inputs"},
    {"wi_0": "outputs", "wi_1": "outputs", "wo": "inputs"},
    {"wi": "outputs", "wo": "inputs"},
    {"c_fc": "outputs", "c_proj": "inputs"},
    {"intermediate.dense": "outputs", "output.dense": "inputs"},
    {"dense_h_to_4h": "outputs", "dense_4h_to_h": "inputs"},
    {"linear1": "outputs", "linear2": "inputs"},
    {"fc1": "outputs", "fc2": "inputs"},
    {"lin1": "outputs", "lin2": "inputs"},
)
"""Feed-forward networks: Llama/Qwen/Mistral, T5 gated and plain, GPT-2, BERT, GPT-NeoX, torch's, ViT/OPT/BART, DistilBERT."""

HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head")
"""What attentions call the number of their heads."""


@dataclass(frozen=True)
class PerHead:
    """One unit per attention head: its rows of the query, key and value matrices, and its columns of the output matrix.

    Recognised by the names of the parts (torch's MultiheadAttention, BERT, GPT-2, GPT-NeoX, Llama, Qwen, Mistral, ViT, T5, OPT,
    DistilBERT); others are named by hand with ``Tied``. Biases of queries, keys and values go with them, if selected; so do the rows or
    columns of peft's low-rank adapters of these matrices.

    Where several heads of queries share keys and values (grouped-query attention): ``shared="query"`` has a unit for each query head
    over its queries and outputs, and keys and values are not masked; ``shared="group"`` has one for each head of keys and values,
    with all query heads that use it.

    Raises (when laid out):
        ValueError: No attention is recognised, or heads do not divide a matrix.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> layout(nn.MultiheadAttention(8, 2), granularity=PerHead()).units
        2
    """

    shared: Literal["query", "group"] = "query"
    kind: Literal["head"] = "head"

    def __post_init__(self) -> None:
        """Check the name.

        Raises:
            ValueError: There is no such one.
        """
        if self.shared not in ("query", "group"):
            raise ValueError(f"shared is 'query' or 'group', got {self.shared!r}")

    def groups(self, model: nn.Module) -> Sequence[Group]:
        """One for each attention, with the biases of its heads."""
        return _found(model, _HEADS, self._cut, "attention heads")

    def _cut(self, module: nn.Module, parts: Parts) -> Group:
        heads, where = _heads(module), f"attention in {type(module).__name__}"
        width = next(_size(site, cut) for site, cut in parts.values())  # of the queries
        _check_fused(parts, where)
        kept = dict(parts)
        keys = {name: _size(site, cut) for name, (site, cut) in parts.items() if cut == "outputs"}
        fewer = {size for size in keys.values() if size != width}
        if fewer and self.shared == "group":
            heads = heads * min(fewer) // width
        elif fewer:
            kept = {name: part for name, part in parts.items() if name not in keys or keys[name] == width}
        return {name: _view(site, cut, heads, where) for name, (site, cut) in kept.items()}


@dataclass(frozen=True)
class PerNeuron:
    """One unit per neuron of a feed-forward network: its row of the first matrix (or two, where gated), bias, and column of the last.

    Recognised by the names of the parts (torch's Transformer layers, BERT, GPT-2, GPT-NeoX, Llama, Qwen, Mistral, ViT, T5, OPT,
    DistilBERT); others are named by hand with ``Tied``.

    Raises (when laid out):
        ValueError: No feed-forward network is recognised.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> layout(nn.TransformerEncoderLayer(8, 2, 16), granularity=PerNeuron()).units
        16
    """

    kind: Literal["neuron"] = "neuron"

    def groups(self, model: nn.Module) -> Sequence[Group]:
        """One for each feed-forward network, with the biases of its neurons."""
        return _found(model, _NEURONS, self._cut, "feed-forward networks")

    def _cut(self, module: nn.Module, parts: Parts) -> Group:
        units = next(_size(site, cut) for site, cut in parts.values())
        where = f"neurons in {type(module).__name__}"
        return {name: _view(site, cut, units, where) for name, (site, cut) in parts.items()}


@dataclass(frozen=True)
class PerLayer:
    """One unit per layer: all its weights, with their biases.

    A layer is the module that a weight belongs to (one of stacked recurrent layers), or what ``modules`` names: blocks of a
    Transformer, say, with everything inside them.

    Raises (when laid out):
        ValueError: A glob matches no module that has weights.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> layout(model, granularity=PerLayer()).units
        2
        >>> block = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 3, enable_nested_tensor=False)
        >>> layout(block, granularity=PerLayer(("layers.*",))).units
        3
    """

    modules: tuple[str, ...] = ()
    """Globs over module names; the outermost that match are units."""
    kind: Literal["layer"] = "layer"

    def groups(self, model: nn.Module) -> Sequence[Group]:
        """One for each layer: what is masked by default, and the biases beside it."""
        shapes = {site.name: tuple(site.parameter.shape) for site in sites(model)}
        chosen = {site.name for site in select(model).chosen}
        beside = {name.rpartition(".")[0] for name in chosen}
        biases = {site.name for site in sites(model) if is_bias(site) and site.name.rpartition(".")[0] in beside}
        names = [name for name in shapes if name in chosen | biases]
        layers = by_layer(names) if not self.modules else self._named(model, names)
        return [
            {name: View(shapes[name], tuple(1 for _ in shapes[name])) for name in layer} for layer in layers.values()
        ]

    def _named(self, model: nn.Module, names: Sequence[str]) -> dict[str, list[str]]:
        layers: dict[str, list[str]] = {}
        for module, _ in model.named_modules():
            inside = any(module.startswith(f"{outer}.") for outer in layers)
            own = [name for name in names if name.startswith(f"{module}.")]
            if own and not inside and any(fnmatchcase(module, glob) for glob in self.modules):
                layers[module] = own
        if not layers:
            raise ValueError(f"{self.modules} match no module of {type(model).__name__} that has weights")
        return layers


@dataclass(frozen=True)
class Tied:
    """Units named by hand, for networks whose heads or neurons are not recognised.

    Args:
        parts: For each group its parameters, with the view and the gates over it; as many gates in every one.
        kind: What a unit is called.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> hidden = {"0.weight": View((6, 4), (6, 1)), "0.bias": View((6,), (6,)), "2.weight": View((2, 6), (1, 6))}
        >>> layout(model, granularity=Tied((hidden,), "neuron")).units
        6
    """

    parts: tuple[Group, ...]
    kind: str = "unit"

    def __post_init__(self) -> None:
        """Check that it is a tuple of groups.

        Raises:
            TypeError: One group in place of several.
        """
        if isinstance(self.parts, Mapping):
            raise TypeError("Tied takes a tuple of groups; write Tied((group,)) for one")

    def groups(self, model: nn.Module) -> Sequence[Group]:  # noqa: ARG002
        """As they were named."""
        return self.parts


@dataclass(frozen=True, eq=False)
class PerIndex:
    """Units anywhere: for each parameter that is masked, the number of the unit that each of its weights belongs to.

    Raises (when made or laid out):
        TypeError: Numbers that are no tensors.
        ValueError: Numbers below 0, or a number up to the largest that no weight has; shapes that do not fit.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> diagonal = (torch.eye(3) == 1).int()  # unit 1 is the diagonal, unit 0 the rest
        >>> layout(nn.Linear(3, 3), granularity=PerIndex({"weight": diagonal})).unit_weights().tolist()
        [6, 3]
    """

    numbers: Mapping[str, Tensor]
    """By parameter: integers of its shape, or of one that broadcasts to it."""
    tied: bool = False
    """Whether a number means the same unit in all of them. Otherwise each parameter has units of its own."""
    kind: str = "part"
    """What a unit is called."""

    def __post_init__(self) -> None:
        """Check that the numbers count."""
        for name, numbers in self.numbers.items():
            if not isinstance(numbers, Tensor):
                raise TypeError(
                    f"numbers of {name!r} are a tensor, got {type(numbers).__name__}; torch.as_tensor makes one"
                )
        for group in self._parts():
            whole = not any(numbers.is_floating_point() for numbers in group.values())
            found = torch.cat([numbers.reshape(-1).long() for numbers in group.values()])
            if not whole or not found.numel() or int(found.min()) < 0:
                raise ValueError(
                    f"numbers of units are integers from 0, got {found[:5].tolist()} ... for {list(group)}"
                )
            counts = torch.bincount(found)
            if not bool(counts.all()):
                missing = int((counts == 0).nonzero()[0])
                raise ValueError(
                    f"no weight of {list(group)} belongs to unit {missing}, though {len(counts) - 1} is numbered"
                )

    def groups(self, model: nn.Module) -> Sequence[Group]:  # noqa: ARG002
        """As they were numbered."""
        found: list[Group] = []
        for group in self._parts():
            units = 1 + max(int(numbers.max()) for numbers in group.values())
            found.append({name: Index(numbers, units) for name, numbers in group.items()})
        return found

    def _parts(self) -> list[Mapping[str, Tensor]]:
        return [self.numbers] if self.tied else [{name: numbers} for name, numbers in self.numbers.items()]


def _found(model: nn.Module, recipes: Sequence[Mapping[str, Cut]], cut: Cutting, what: str) -> list[Group]:
    """The groups of all modules that have the parts of a recipe, from the outside in; each parameter belongs to one."""
    known = {name: site for site in sites(model) for name in site.names}
    taken: set[str] = set()
    groups: list[Group] = []
    for prefix, module in model.named_modules():
        for recipe in recipes:
            parts = dict(_parts(known, prefix, recipe))
            if parts and not taken.intersection(parts):
                taken.update(parts)
                groups.append(cut(module, parts))
                break
    if not groups:
        raise ValueError(
            f"no {what} are recognised in {type(model).__name__} by the names of its parts; name them with ms.Tied, or choose "
            "another granularity"
        )
    return groups


def _parts(known: Mapping[str, Site], prefix: str, recipe: Mapping[str, Cut]) -> Iterator[tuple[str, tuple[Site, Cut]]]:
    """The parameters of a recipe's parts under a prefix; nothing unless every part is there and none is empty."""
    found: list[tuple[str, tuple[Site, Cut]]] = []
    for part, cut in recipe.items():
        stem = f"{prefix}.{part}" if prefix else part
        names = (*(f"{stem}.{leaf}" for leaf in _LEAVES), f"{stem}_weight", f"{stem}_bias")
        here = [known[name] for name in names if name in known]
        if not here or not all(site.parameter.numel() for site in here):
            return
        adapter = f"{stem}.lora_{'A' if cut == 'inputs' else 'B'}."
        here += [site for name, site in known.items() if name.startswith(adapter) and name.endswith(".weight")]
        # The bias of an output matrix is no head's own.
        found.extend((site.name, (site, cut)) for site in here if cut != "inputs" or site.parameter.ndim > 1)
    yield from found


def _heads(module: nn.Module) -> int:
    """How many heads an attention has, from the module, its children or its configuration."""
    for owner in (module, *module.children(), getattr(module, "config", None)):
        for attribute in HEAD_COUNTS:
            count = getattr(owner, attribute, None)
            if isinstance(count, int):
                return count
    raise ValueError(
        f"{type(module).__name__} does not say how many heads it has ({', '.join(HEAD_COUNTS)}); use ms.Tied"
    )


def _check_fused(parts: Parts, where: str) -> None:
    """Matrices of queries, keys and values must lie as the recipes say: a name is no proof.

    Raises:
        ValueError: Heads share keys and values inside the matrix (Falcon), or it is laid out head by head under GPT-2's name (GPTBigCode).
    """
    outputs = next((_size(site, cut) for site, cut in parts.values() if cut == "inputs"), 0)
    for name, (site, cut) in parts.items():
        fused = cut == "thirds" or name.endswith(("query_key_value.weight", "query_key_value.bias"))
        if fused and (_size(site, cut) != 3 * outputs or "BigCode" in where):
            raise ValueError(
                f"{where}: how queries, keys and values lie in {name!r} of shape {tuple(site.parameter.shape)} is not known; number "
                "the heads of its rows with ms.PerIndex, or choose another granularity"
            )


def _size(site: Site, cut: Cut) -> int:
    """How long the axis is that is cut."""
    shape = site.parameter.shape
    if len(shape) < 2:
        return shape[0]
    output, incoming = axes(site)
    return shape[incoming if cut == "inputs" else output]


def _view(site: Site, cut: Cut, units: int, where: str) -> View:
    """A parameter whose axis is cut into units."""
    shape = tuple(site.parameter.shape)
    output, incoming = axes(site) if len(shape) > 1 else (0, 0)
    axis, whole = (incoming if cut == "inputs" else output), _STACKED.get(cut, 1)
    if shape[axis] % (units * whole):
        raise ValueError(f"{where}: {units} units do not divide {site.name!r} of shape {shape} along axis {axis}")
    before = (whole,) if whole > 1 else ()
    split = (*before, units, shape[axis] // (units * whole))
    gates = (*(1 for _ in before), units, 1)
    ones = tuple(1 for _ in shape)
    return View(
        (*shape[:axis], *split, *shape[axis + 1 :]),
        (*ones[:axis], *gates, *ones[axis + 1 :]),
    )

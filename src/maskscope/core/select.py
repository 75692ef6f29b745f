"""Which parameters of a network get a mask: module types and globs, and why the rest does not."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

Pattern = str | type[nn.Module]
"""A glob over parameter names (``"encoder.*"``), ``"type:Linear"`` or a module class; ``"!"`` first removes."""


@dataclass(frozen=True, eq=False)
class Site:
    """One parameter (a tied one counts once) and the places where it sits in the network."""

    names: tuple[str, ...]
    """Every name it answers to; the first is the one used everywhere."""
    owners: tuple[nn.Module, ...]
    """The module behind each name."""
    parameter: nn.Parameter

    @property
    def name(self) -> str:
        """The first of its names, as in ``model.named_parameters()``."""
        return self.names[0]

    @property
    def leaf(self) -> str:
        """The parameter's own name inside its module, such as ``weight_hh_l0``."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class LeftOut:
    """A parameter that gets no mask, with the reason a person can act on."""

    name: str
    weights: int
    reason: str


@dataclass(frozen=True, eq=False)
class Selection:
    """What a selection chose, and what it did not."""

    chosen: tuple[Site, ...]
    left_out: tuple[LeftOut, ...]


def expect_network(value: object) -> nn.Module:
    """The value, if it is a network.

    Raises:
        TypeError: It is not.
    """
    if not isinstance(value, nn.Module):
        got = f"the class {value.__name__}" if isinstance(value, type) else f"an object of type {type(value).__name__}"
        raise TypeError(
            "a network is an nn.Module (of a pipeline or trainer: its .model; of a network under a mask: the network itself), got "
            + got
        )
    return value


def sites(model: nn.Module) -> tuple[Site, ...]:
    """All parameters of a network in the order of ``named_parameters``, tied ones once.

    Raises:
        TypeError: Not a network.

    Examples:
        >>> from torch import nn
        >>> [site.name for site in sites(nn.Linear(2, 3))]
        ['weight', 'bias']
    """
    expect_network(model)
    names: dict[int, list[str]] = {}
    owners: dict[int, list[nn.Module]] = {}
    parameters: dict[int, nn.Parameter] = {}
    modules: Iterable[tuple[str, nn.Module]] = model.named_modules(remove_duplicate=False)
    for prefix, module in modules:
        for leaf, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            key = id(parameter)
            parameters[key] = parameter
            names.setdefault(key, []).append(f"{prefix}.{leaf}" if prefix else leaf)
            owners.setdefault(key, []).append(module)
    return tuple(Site(tuple(names[key]), tuple(owners[key]), parameters[key]) for key in parameters)


def is_normalisation(module: nn.Module) -> bool:
    """Whether a module normalises activations: torch's own layers, or any class with ``Norm`` in its name."""
    return "Norm" in type(module).__name__


def is_embedding(module: nn.Module) -> bool:
    """Whether a module looks up learned vectors: ``nn.Embedding`` and the like, or a class named so."""
    return isinstance(module, nn.Embedding | nn.EmbeddingBag) or "Embedding" in type(module).__name__


def is_bias(site: Site) -> bool:
    """Whether a parameter is a bias by its name, also in fused layers (``in_proj_bias``, ``bias_hh_l0``)."""
    return "bias" in site.leaf.split("_")


def is_reparametrised(site: Site) -> bool:
    """Whether a parameter is what weight or spectral norm compute a weight from, so that zeroing it removes no weight."""
    if ".parametrizations." in f".{site.name}":
        return True
    owner, leaf = site.owners[0], site.leaf
    return (leaf.endswith(("_g", "_v")) and hasattr(owner, f"{leaf[:-2]}_g") and hasattr(owner, f"{leaf[:-2]}_v")) or (
        leaf.endswith("_orig") and hasattr(owner, f"{leaf.removesuffix('_orig')}_u")
    )


def nearest(unknown: str, known: Iterable[str]) -> str:
    """The known names closest to an unknown one, as a phrase for an error message."""
    close = difflib.get_close_matches(unknown, list(known), n=3, cutoff=0.4)
    return ", ".join(repr(name) for name in close) if close else "nothing similar"


def _excluded_by_default(site: Site) -> str | None:
    """Why the default leaves a parameter out, or None.

    Source: the published sweeps (no embedding, no bias; the layer norms of the Transformers in full).
    """
    if is_reparametrised(site):
        return "input of a reparametrised weight, not a weight; remove the parametrisation first"
    if any(is_normalisation(owner) for owner in site.owners):
        return None
    if any(is_embedding(owner) for owner in site.owners):
        tied = f", tied to {site.names[1]!r}" if len(site.names) > 1 else ""
        return f"embedding{tied}"
    if is_bias(site):
        return "bias outside a normalisation layer"
    return None


def _matches(pattern: Pattern, site: Site) -> bool:
    if isinstance(pattern, type):
        return any(isinstance(owner, pattern) for owner in site.owners)
    if pattern.startswith("type:"):
        wanted = pattern.removeprefix("type:")
        return any(fnmatchcase(base.__name__, wanted) for owner in site.owners for base in type(owner).__mro__)
    return any(fnmatchcase(name, pattern) for name in site.names)


def layer(parameter: str) -> str:
    """The layer a parameter belongs to: its module, and for stacked recurrent layers which of them.

    Examples:
        >>> layer("encoder.0.weight"), layer("lstm.weight_hh_l1")
        ('encoder.0', 'lstm.l1')
        >>> layer("q_proj.base_layer.weight"), layer("q_proj.lora_A.default.weight")  # peft's adapters belong to their layer
        ('q_proj', 'q_proj')
    """
    module, _, leaf = parameter.rpartition(".")
    module = re.sub(r"\.(base_layer|lora_[AB]\.\w+)$", "", module)
    stacked = re.search(r"_(l\d+(?:_reverse)?)$", leaf)
    return ".".join(part for part in (module, stacked[1] if stacked else "") if part) or leaf


def by_layer(parameters: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Parameters by the layer they belong to.

    Examples:
        >>> by_layer(["0.weight", "0.bias", "2.weight"])
        {'0': ('0.weight', '0.bias'), '2': ('2.weight',)}
    """
    layers: dict[str, tuple[str, ...]] = {}
    for name in parameters:
        layers[layer(name)] = (*layers.get(layer(name), ()), name)
    return layers


def listed(patterns: Iterable[str]) -> tuple[str, ...]:
    """Globs, to be gone through more than once.

    Raises:
        TypeError: One glob, not a list of them.

    Examples:
        >>> listed(name for name in ("a.*", "b"))
        ('a.*', 'b')
    """
    if isinstance(patterns, str):
        raise TypeError(f"names are a list of globs; write [{patterns!r}]")
    return tuple(patterns)


def match_names(places: Mapping[str, int], patterns: Iterable[str]) -> tuple[str, ...]:
    """The names that match any of the globs, by their places; a name is itself, whatever characters it has.

    Raises:
        KeyError: A glob matches none; the message has the nearest names.
        TypeError: One glob, not a list of them.

    Examples:
        >>> match_names({"a.weight": 0, "b.weight": 1}, ["a.*"])
        ('a.weight',)
    """
    found = set[str]()
    for pattern in listed(patterns):
        here = {pattern} if pattern in places else {name for name in places if fnmatchcase(name, pattern)}
        if not here:
            raise KeyError(
                f"{pattern!r} matches none of {len(places)} masked parameters; nearest: {nearest(pattern, places)}"
            )
        found |= here
    return tuple(sorted(found, key=places.__getitem__))


def select(model: nn.Module, patterns: Sequence[Pattern] | None = None) -> Selection:
    """Choose the parameters that get a mask.

    Without patterns: every weight; not embeddings, nor biases outside normalisation layers. With patterns the last
    one that matches a parameter decides; a list of ``!`` patterns alone starts from the default. Patterns are taken
    at their word: ``"encoder.*"`` includes the encoder's biases.

    Args:
        model: Any network.
        patterns: Globs over parameter names, ``"type:LSTM"`` (class names, subclasses too), or module classes;
            a string that starts with ``!`` removes.

    Raises:
        KeyError: A pattern matches nothing; the message has the nearest names.
        ValueError: Nothing is selected, or the network has no parameters or uninitialised (lazy) ones.

    Examples:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
        >>> [site.name for site in select(model).chosen]
        ['0.weight', '1.weight', '1.bias']
        >>> [site.name for site in select(model, ["!type:LayerNorm"]).chosen]
        ['0.weight']
    """
    if isinstance(patterns, str | type):
        raise TypeError(f"select takes a list of patterns; write select=[{patterns!r}]")
    everything = sites(model)
    _check_sites(model, everything)
    rules = [_Rule.of(pattern) for pattern in patterns or ()]
    for rule in rules:
        if not any(_matches(rule.pattern, site) for site in everything):
            raise KeyError(nothing_matches(rule.pattern, everything))
    chosen: list[Site] = []
    left_out: list[LeftOut] = []
    for site in everything:
        reason = _reason(site, rules)
        if reason is None:
            chosen.append(site)
        else:
            left_out.append(LeftOut(site.name, site.parameter.numel(), reason))
    if not chosen:
        reasons = sorted({item.reason for item in left_out})
        raise ValueError(
            f"none of the {len(everything)} parameters of {type(model).__name__} is selected "
            f"({'; '.join(reasons)}); name some, for example select=[{everything[0].name!r}]"
        )
    return Selection(tuple(chosen), tuple(left_out))


@dataclass(frozen=True)
class _Rule:
    pattern: Pattern
    adds: bool

    @classmethod
    def of(cls, pattern: Pattern) -> _Rule:
        if isinstance(pattern, str) and pattern.startswith("!"):
            return cls(pattern.removeprefix("!"), adds=False)
        return cls(pattern, adds=True)


def _check_sites(model: nn.Module, everything: Sequence[Site]) -> None:
    if not everything:
        raise ValueError(f"{type(model).__name__} has no parameters, so there is nothing to mask")
    lazy = [site.name for site in everything if isinstance(site.parameter, nn.UninitializedParameter)]
    if lazy:
        raise ValueError(f"parameters without a shape yet: {lazy}; run the network once on a batch, then select")


def _reason(site: Site, rules: Sequence[_Rule]) -> str | None:
    """Why a parameter is left out, or None: the last rule that matches decides."""
    from_default = all(not rule.adds for rule in rules)
    reason = _excluded_by_default(site) if from_default else "not named by any pattern"
    for rule in rules:
        if _matches(rule.pattern, site):
            name = rule.pattern if isinstance(rule.pattern, str) else rule.pattern.__name__
            reason = None if rule.adds else f"removed by '!{name}'"
    if reason is None and not site.parameter.is_floating_point():
        return f"not floating point ({site.parameter.dtype})"
    if reason is None and not site.parameter.numel():
        return "empty"
    return reason


def nothing_matches(rule: Pattern, everything: Sequence[Site]) -> str:
    """What to say of a pattern or a name that the network does not have: with what is nearest to it."""
    names = [name for site in everything for name in site.names]
    types = sorted({type(owner).__name__ for site in everything for owner in site.owners})
    if isinstance(rule, type):
        return f"no parameter belongs to a {rule.__name__}; the network's layers are of types {types}"
    if rule.startswith("type:"):
        return f"{rule!r} matches no layer that has parameters; types here: {types}"
    inside = sum(name.startswith(f"{rule}.") for name in names)
    hint = f"; did you mean '{rule}.*' ({inside} parameters)?" if inside else ""
    return f"{rule!r} matches none of {len(names)} parameter names; nearest: {nearest(rule, names)}{hint}"

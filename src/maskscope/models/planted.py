"""Networks whose answer is known: small trained modules put together so that two subtasks share a given part of them.

A *module* computes the difference of two digits. A subtask has four problems of its own, each answered by its own module, by
way of input columns and output rows that no other subtask has; in between, a given fraction of the modules serves both.
Then units are put into another order and scaled where that changes nothing, so that nothing shows which belong together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from maskscope.models.modules import ARCHITECTURES, DIGITS, Architecture, Axis, Kind, Sizes

SUBTASKS, PROBLEMS = 2, 4
"""How many subtasks there are, and how many problems (so modules) each has."""

Supports = tuple[dict[str, Bool[Tensor, "..."]], ...]
"""For each subtask, which weights of each parameter are its own modules'."""

_LOSS = 0.01
"""Of a module, when its training ends."""

_SPREAD = 0.5
"""Standard deviation of the logarithm of the scale that a unit gets."""


@dataclass(frozen=True)
class _Wiring:
    """Which block of each space belongs to a problem of a subtask."""

    blocks: Mapping[str, tuple[tuple[int, ...], ...]]
    """For each space, by subtask and problem."""
    used: Mapping[str, int]
    """Blocks of each space that belong to anything; distractors come after them."""


@dataclass(frozen=True)
class PlantedSettings:
    """A network with a known answer.

    Raises:
        ValueError: Not so many parts can be shared, or layers of something that is no MLP.

    Examples:
        >>> settings = PlantedSettings("mlp", shared=0.5)
        >>> first, second = settings.supports()
        >>> a, b = (support["layers.2.weight"] for support in (first, second))
        >>> round(float((a & b).sum() / (a | b).sum()), 3)
        0.333
    """

    architecture: Kind = "mlp"
    shared: float = 0.0
    """Share of the modules (or of the hidden layers) that serve both subtasks: 0, 1/4, 1/2, 3/4 or 1."""
    by: Literal["units", "layers"] = "units"
    """units: some modules serve both subtasks. layers: all do in the first hidden layers, and none in the rest (MLP only)."""
    distractors: int = 1
    """Modules' worth of random units that read everything and are read by nothing that matters."""
    kind: Literal["planted"] = "planted"

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.shared * PROBLEMS not in range(PROBLEMS + 1):
            raise ValueError(f"shared is a multiple of {1 / PROBLEMS} from 0 to 1, got {self.shared}")
        if self.by == "layers" and self.architecture != "mlp":
            raise ValueError(f"layers can be shared in an MLP only, not in {self.architecture!r}: share units")
        if self.distractors < 0:
            raise ValueError(f"distractors must be at least 0, got {self.distractors}")

    @property
    def ends(self) -> tuple[str, ...]:
        """The masked parameters of the first and the last layer."""
        return self._architecture.ends

    @property
    def read_out(self) -> str:
        """The matrix whose rows are the network's outputs."""
        return self.ends[-1]

    @property
    def first_half(self) -> tuple[str, ...]:
        """The parameters of the half-mask test."""
        weights = [name for name, axes in self._architecture.axes.items() if len(axes) > 1 and axes[0]]
        return tuple(weights[: (len(weights) + 1) // 2])

    def build(self, inputs: int, outputs: int) -> nn.Module:
        """Train the modules (seconds) and plant them; draws from torch's global generator.

        Raises:
            ValueError: Not the inputs and outputs of the planted problems.
        """
        expected = SUBTASKS * PROBLEMS * 2 * DIGITS, SUBTASKS * PROBLEMS * DIGITS
        if (inputs, outputs) != expected:
            raise ValueError(f"a planted network has {expected} inputs and outputs, asked for {(inputs, outputs)}")
        wiring = self._wiring()
        whole = self._whole(wiring)
        if next(whole.parameters()).is_meta:  # only its layout is wanted
            return whole
        self._plant(whole, wiring, self._modules())
        self._hide(whole, wiring)
        return whole

    def supports(self) -> Supports:
        """What each subtask's modules consist of, before units are put into another order: overlaps do not depend on it."""
        wiring = self._wiring()
        with torch.device("meta"):
            whole = self._whole(wiring)
        found = tuple(
            {name: torch.zeros(parameter.shape, dtype=torch.bool) for name, parameter in whole.named_parameters()}
            for _ in range(SUBTASKS)
        )
        for subtask, support in enumerate(found):
            for name, kept in support.items():
                for problem in range(PROBLEMS):
                    kept[self._place(name, kept, wiring, subtask, problem)] = True
        return found

    @property
    def _architecture(self) -> Architecture:
        return ARCHITECTURES[self.architecture]

    def _wiring(self) -> _Wiring:
        slots = tuple(tuple(range(i * PROBLEMS, (i + 1) * PROBLEMS)) for i in range(SUBTASKS))
        hidden = [name for name, space in self._architecture.spaces.items() if space.hidden]
        parts = round(self.shared * PROBLEMS)
        blocks: dict[str, tuple[tuple[int, ...], ...]] = {}
        for place, name in enumerate(hidden):
            trunk = PROBLEMS if parts and place <= parts else 0  # weights lie between two spaces: one more than layers
            common = trunk if self.by == "layers" else parts
            own = tuple(range(PROBLEMS, 2 * PROBLEMS - common))
            blocks[name] = (slots[0], (*range(common), *own))
        used = {name: 2 * PROBLEMS - len({*a} & {*b}) for name, (a, b) in blocks.items()}
        ends = {name: slots for name, space in self._architecture.spaces.items() if not space.hidden}
        return _Wiring(blocks | ends, used | dict.fromkeys(ends, SUBTASKS * PROBLEMS))

    def _sizes(self, wiring: _Wiring) -> Sizes:
        spaces = self._architecture.spaces
        return {name: wiring.used[name] + (self.distractors if space.hidden else 0) for name, space in spaces.items()}

    def _whole(self, wiring: _Wiring) -> nn.Module:
        return self._architecture.build(self._sizes(wiring))

    def _modules(self) -> list[list[nn.Module]]:
        """A trained one for each subtask and problem; one network where they are shared."""
        first = [_trained(self._architecture) for _ in range(PROBLEMS)]
        common = PROBLEMS if self.by == "layers" else round(self.shared * PROBLEMS)
        return [first, [*first[:common], *(_trained(self._architecture) for _ in range(PROBLEMS - common))]]

    def _units(self, axis: Axis, wiring: _Wiring, block: int) -> Int64[Tensor, " units"]:
        """Where the units of a block lie on an axis."""
        size = self._architecture.spaces[axis.space].size
        length = self._sizes(wiring)[axis.space] * size
        return torch.cat([torch.arange(size) + chunk * length + block * size for chunk in range(axis.chunks)])

    def _place(
        self, name: str, parameter: Tensor, wiring: _Wiring, subtask: int, problem: int
    ) -> tuple[Int64[Tensor, "..."], ...]:
        """The index of one module's share of a parameter."""
        axes = self._architecture.axes[name]
        along = [
            torch.arange(length)
            if axis is None
            else self._units(axis, wiring, wiring.blocks[axis.space][subtask][problem])
            for axis, length in zip(axes, parameter.shape, strict=True)
        ]
        return torch.meshgrid(*along, indexing="ij")

    @torch.no_grad()
    def _plant(self, whole: nn.Module, wiring: _Wiring, modules: list[list[nn.Module]]) -> None:
        spread = {
            name: float(torch.stack([m.get_parameter(name) for row in modules for m in row]).std())
            for name, _ in whole.named_parameters()
        }
        for name, parameter in whole.named_parameters():
            parameter.zero_()
            self._distract(name, parameter, wiring, spread[name])
            for subtask, row in enumerate(modules):
                for problem, module in enumerate(row):
                    parameter[self._place(name, parameter, wiring, subtask, problem)] = module.get_parameter(name)

    def _distract(self, name: str, parameter: Tensor, wiring: _Wiring, spread: float) -> None:
        """Random weights into distracting units; nothing else reads those."""
        for place, axis in enumerate(self._architecture.axes[name]):
            if axis is None or not axis.writes or not self._architecture.spaces[axis.space].hidden:
                continue
            for block in range(wiring.used[axis.space], wiring.used[axis.space] + self.distractors):
                rows = parameter.movedim(place, 0)
                at = self._units(axis, wiring, block)
                rows[at] = torch.randn(rows[at].shape) * spread

    @torch.no_grad()
    def _hide(self, whole: nn.Module, wiring: _Wiring) -> None:
        """Another order of units, and another scale where the next layer can take it back."""
        for name, space in self._architecture.spaces.items():
            if not space.hidden:
                continue
            units = self._sizes(wiring)[name] * space.size
            together = torch.arange(units).unflatten(0, (-1, space.together))
            order = together[torch.randperm(len(together))].flatten()
            scale = torch.exp(_SPREAD * torch.randn(units)) if space.scalable else torch.ones(units)
            for parameter_name, parameter in whole.named_parameters():
                for place, axis in enumerate(self._architecture.axes[parameter_name]):
                    if axis is not None and axis.space == name:
                        _reorder(parameter, place, axis, order, scale if axis.writes else 1 / scale)


def _reorder(
    parameter: Tensor, place: int, axis: Axis, order: Int64[Tensor, " units"], scale: Float[Tensor, " units"]
) -> None:
    along = torch.cat([order + chunk * len(order) for chunk in range(axis.chunks)])
    moved = parameter.index_select(place, along)
    shape = [1] * parameter.ndim
    shape[place] = -1
    parameter.copy_(moved * scale.repeat(axis.chunks).view(shape))


def _trained(architecture: Architecture) -> nn.Module:
    """A module that tells differences: its loss was small before the last step.

    (A last step that spoils one answer in sixteen has been seen. Reports then warn that the network fails, and do not judge.)
    """
    digits = torch.cartesian_prod(torch.arange(DIGITS), torch.arange(DIGITS))
    inputs, targets = functional.one_hot(digits, DIGITS).flatten(1).float(), (digits[:, 0] - digits[:, 1]) % DIGITS
    with torch.enable_grad():
        for _ in range(5):  # the odd one gets stuck
            module = architecture.build(dict.fromkeys(architecture.spaces, 1))
            adam = torch.optim.Adam(module.parameters(), lr=architecture.learning_rate)
            for _ in range(2000):
                adam.zero_grad()
                loss = functional.cross_entropy(module(inputs), targets)
                loss.backward()
                adam.step()
                if float(loss.detach()) < _LOSS:
                    return module
    raise RuntimeError("no module of a planted network could be trained; please report this")

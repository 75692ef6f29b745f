"""A step of learning: each part of a batch forward and backward, with gated weights in place of the network's."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from maskscope.core.apply import Within
from maskscope.core.batches import Part
from maskscope.core.learning import products, recomputed, recurrent
from maskscope.core.learning.gated import itself
from maskscope.core.learning.gating import Gating
from maskscope.core.learning.kernels import Kernel
from maskscope.core.learning.logits import Logits
from maskscope.core.learning.products import Collecting
from maskscope.core.noise import Draw
from maskscope.core.objectives import Objective
from maskscope.core.swap import Swap


class Step:
    """The work of one step over a network.

    Args:
        model: Any network.
        objective: Its mean loss on a batch.
        weights: All its parameters, detached.
        logits: What is learned.
        kernel: The passes over rows.
        penalty: Added to the mean loss per unit of summed gate penalty.
        autocast: The type of the network's products; None: as the network has it.
        replacement: What removed weights become, by parameter.
        alongside: Parameters that something else learns from the same backward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        *,
        weights: Mapping[str, Tensor],
        logits: Logits,
        kernel: Kernel,
        penalty: float,
        autocast: torch.dtype | None = None,
        replacement: Mapping[str, Tensor] | None = None,
        alongside: Iterable[Tensor] = (),
    ) -> None:
        """Allocate everything."""
        self.model = model
        self.objective = objective
        self.logits = logits
        self.autocast = autocast
        self.gating = Gating(weights, logits, kernel, penalty, replacement, products.unseen(model))
        self.collecting = Collecting()
        linear = products.forwards(model, self.gating.written | self.gating.matrices, self.collecting)
        lstm = recurrent.forwards(model, self.gating.matrices, self.collecting)
        self.swap = Swap(model, {**weights, **self.gating.seen}, linear | lstm | recomputed.forwards(model))
        self._weights, self._replacement = weights, replacement or {}
        self._checked = False
        learned = {id(parameter) for parameter in alongside}
        self._own = {n: p for n, p in model.named_parameters() if p.requires_grad and id(p) not in learned}
        """The network's parameters as they are, but for those that something else learns."""
        self._past: Mapping[str, Tensor] = {}
        """Those of them that the loss reaches too."""
        self._both = False
        """Whether the part's loss is of the complement too."""

    def draw(self, streams: Sequence[Draw]) -> None:
        """The samples of this step have these streams."""
        self.gating.draw(streams)

    def run(self, parts: Sequence[Part]) -> Tensor:
        """Run the parts of a batch, so that the logits' gradient is whole, the penalty's included; returns the loss."""
        loss = torch.zeros((), dtype=torch.float32, device=self.logits.device)
        self.gating.begin()
        for part in parts:
            loss += self._part(part)
        self.gating.finish()
        return loss

    def inverted(self, *args: Any, **kwargs: Any) -> Any:
        """The network under the complement of the sample shown: what the sample keeps is replaced, and the other way round."""
        self._both = True
        others = {name: self._weights[name] - seen for name, seen in self.gating.seen.items()}
        others |= {name: others[name] + value for name, value in self._replacement.items()}
        with Swap(self.model, {**self._weights, **others}):
            return self.model(*args, **kwargs)

    def _part(self, part: Part) -> Tensor:
        """Run one part under its sample and keep its gradient; returns its share of the loss."""
        self.gating.show(part.sample)
        if self._checked:
            loss = self._backward(part, Unmasked(self._past) if self._past else nullcontext())
        else:
            loss = self._first_backward(part)
        self.gating.keep(part.sample)
        return loss.to(self.logits.rows)

    def _first_backward(self, part: Part) -> Tensor:
        """Backward, with a look at which masked parameters it reaches."""
        reached, leaves = self.collecting.reached, self.gating.leaves
        with itself():
            hooks = [
                leaf.register_post_accumulate_grad_hook(partial(_note, reached, name))
                for name, leaf in self.gating.arrivals
            ]
        unmasked = Unmasked(self._own)
        try:
            loss = self._backward(part, unmasked)
        finally:
            for hook in hooks:
                hook.remove()
        self._past = {name: self._own[name] for name in unmasked.found}
        unused = [name for name in leaves if name not in reached]
        if len(unused) == len(leaves):
            raise ValueError(
                "the loss does not depend on any masked weight: is the network's output detached, or read from layers "
                "that the layout leaves out? layout.table() says what is masked"
            )
        if unused and self.logits.step == 0:
            warnings.warn(
                f"{len(unused)} of {len(leaves)} masked parameters take no part in the loss, first {unused[0]!r}; "
                "their units will be removed. If they should: gradient checkpointing needs use_reentrant=False",
                stacklevel=5,
            )
        if self._past and self.logits.step == 0:
            warnings.warn(
                f"the loss reaches the network's own {next(iter(self._past))!r} past the mask ({len(self._past)} parameters): what it "
                "computes with them is not masked. Ask the network that the objective is given for its parameters and parts; a "
                "teacher belongs under torch.no_grad()",
                stacklevel=5,
            )
        self._checked = True
        return loss

    def _backward(self, part: Part, around: AbstractContextManager[Any]) -> Tensor:
        """The part's share of the loss, after backward, with the leaves in place of the network's parameters.

        They are swapped in for the calls that the objective makes, not for the objective as a whole: it may call the
        network itself (a distillation loss does) and then sees it as it is. They are swapped in again for backward,
        since gradient checkpointing runs the network a second time there.
        """
        network, self._both = Sampled(self), False
        with torch.enable_grad():
            device, lower = self.logits.device.type, self.autocast is not None
            with torch.autocast(device, self.autocast) if lower else nullcontext():
                loss = self.objective(network, part.batch)
            _check_loss(loss)
            share = loss * part.share
            with self.swap, around, register_module_forward_pre_hook(_refuse) if self._both else nullcontext():
                self.collecting.on = self.swap.shared = True
                try:
                    share.backward()
                finally:
                    self.collecting.on = self.swap.shared = False
        return share.detach()


class Unmasked:
    """Which of some parameters a backward pass reaches; what it leaves in their ``grad`` is taken out again.

    Examples:
        >>> model = nn.Linear(2, 1)
        >>> with Unmasked(dict(model.named_parameters())) as unmasked:
        ...     model.bias.square().sum().backward()
        >>> sorted(unmasked.found), model.bias.grad
        (['bias'], None)
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        """Of these."""
        self._parameters = parameters
        self.found: dict[str, tuple[Tensor, Tensor] | None] = {}
        """By name, the gradient that was there before, and its values."""

    def __enter__(self) -> Unmasked:
        """Look."""
        self._hooks = [
            parameter.register_hook(partial(self._met, name)) for name, parameter in self._parameters.items()
        ]
        return self

    def __exit__(self, *error: object) -> None:
        """Leave everything as it was."""
        for hook in self._hooks:
            hook.remove()
        with torch.no_grad():
            for name, before in self.found.items():
                self._parameters[name].grad = None if before is None else before[0].copy_(before[1])
                self.found[name] = None

    def _met(self, name: str, _gradient: Tensor) -> None:
        """Before it is added to what is there."""
        if name not in self.found:
            before = self._parameters[name].grad
            self.found[name] = None if before is None else (before, before.clone())


class Sampled(Within):
    """The network under a sample of its mask, as an objective gets it; called like the network itself, or by its methods."""

    def __init__(self, step: Step) -> None:
        """Of the sample that is shown."""
        super().__init__(step.model, lambda: step.swap)
        self._step = step

    def complement(self, *args: Any, **kwargs: Any) -> Any:
        """The network with the weights that the sample removes, as differentiable; with gradient checkpointing an error."""
        return self._step.inverted(*args, **kwargs)


def _refuse(*_: object) -> None:
    """The network runs again in backward: under the sample, also where it was under the complement."""
    raise RuntimeError(
        "an objective that calls network.complement cannot be used with gradient checkpointing: what runs again in backward would "
        "run without the complement; switch checkpointing off (accumulate= saves memory too)"
    )


def _note(reached: set[str], name: str, _leaf: Tensor) -> None:
    reached.add(name)


def _check_loss(loss: object) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(f"an objective returns the mean loss as a scalar tensor, got {got}")
    if not loss.requires_grad:
        raise ValueError("the loss has no gradient: was it computed under no_grad, or with .item() or .detach()?")

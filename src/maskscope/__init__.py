"""Which weights of a trained network does a function live in, and are they shared with another function?

A model is a callable; a masked model is another callable with the same signature; an objective takes a callable.
"""

from maskscope.analysis.ablate import complement, half, keep_open, random_like
from maskscope.analysis.compare import iomin, iou, overlap, per_layer, per_tensor, remaining, shared
from maskscope.analysis.controls import controls
from maskscope.analysis.evaluate import evaluate
from maskscope.analysis.modularity import reuse_of
from maskscope.core.apply import applied, bake, masked
from maskscope.core.channels import PerChannel
from maskscope.core.gates import GumbelSigmoid, HardConcrete, Sigmoid, TopK
from maskscope.core.granularity import PerBlock, PerInput, PerOutput, PerTensor, PerWeight, View
from maskscope.core.groups import PerHead, PerIndex, PerLayer, PerNeuron, Tied
from maskscope.core.layout import layout
from maskscope.core.learning.learn import LearningInterrupted, NonFiniteLossError, learn_mask, learning
from maskscope.core.learning.logits import Logits
from maskscope.core.learning.schedules import FAST, PUBLISHED, Schedule
from maskscope.core.mask import Mask
from maskscope.core.objectives import Distillation, ModelLoss, accuracy, cross_entropy
from maskscope.progress import progress
from maskscope.study import Study, Subtask

__all__ = [
    "FAST",
    "PUBLISHED",
    "Distillation",
    "GumbelSigmoid",
    "HardConcrete",
    "LearningInterrupted",
    "Logits",
    "Mask",
    "ModelLoss",
    "NonFiniteLossError",
    "PerBlock",
    "PerChannel",
    "PerHead",
    "PerIndex",
    "PerInput",
    "PerLayer",
    "PerNeuron",
    "PerOutput",
    "PerTensor",
    "PerWeight",
    "Schedule",
    "Sigmoid",
    "Study",
    "Subtask",
    "Tied",
    "TopK",
    "View",
    "accuracy",
    "applied",
    "bake",
    "complement",
    "controls",
    "cross_entropy",
    "evaluate",
    "half",
    "iomin",
    "iou",
    "keep_open",
    "layout",
    "learn_mask",
    "learning",
    "masked",
    "overlap",
    "per_layer",
    "per_tensor",
    "progress",
    "random_like",
    "remaining",
    "reuse_of",
    "shared",
]

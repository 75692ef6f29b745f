"""Masks over the weights of a frozen network: where they live, how they are learned and applied.

Needs torch, numpy and safetensors, nothing else of this package.
"""

"""Runs a script of tutorials/ with nn.Adam: python watched_tutorial.py NAME MODE."""

import importlib
import sys

import mindspore as ms
from harness import train
from mindspore import nn

name, mode = sys.argv[1:]
ms.set_context(mode=ms.GRAPH_MODE if mode == "graph" else ms.PYNATIVE_MODE)
run = train(importlib.import_module(f"tutorials.{name}").train, nn.Adam)
for loss in run.losses:
    print("loss", float(loss).hex())
for weight in run.end:
    print("weight", weight.tobytes().hex()[:256])
sys.exit(3)

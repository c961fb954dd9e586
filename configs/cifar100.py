"""CIFAR-100 from scratch with a plain ViT on patches of 2 pixels: the recipe of cifar10.py.

python train.py --config configs/cifar100.py

Accuracy, with and without mirror images, and time: not measured yet. Nothing of this has been run
on a GPU.
"""

import dataclasses
from pathlib import Path

from vit_jax.config import load_config

cifar10 = load_config(Path(__file__).with_name("cifar10.py"))
config = dataclasses.replace(cifar10, data=dataclasses.replace(cifar10.data, name="cifar100"))

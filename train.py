"""Train a ViT: python train.py --config configs/cifar10.py [--config.FIELD=VALUE …]"""

import sys

from vit_jax.cli import train_command

if __name__ == "__main__":
    sys.exit(train_command())

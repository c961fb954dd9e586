"""The CIFAR recipe by torchvision's transforms in a DataLoader's workers; prints images per second.

python benchmarks/torchvision_recipe.py WORKERS

benchmarks/input_pipeline.py runs it where torchvision is installed.
"""

import sys
import time

import numpy as np
import torch

if not torch.cuda.is_available():
    # torchvision's wheels for CUDA name operators that a build of PyTorch for CPUs has not got.
    _LIBRARY = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _LIBRARY.define(_name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from per_image_recipe import MEAN, STD
from PIL import Image
from torchvision.transforms import v2


class Pictures(torch.utils.data.Dataset):
    """Random pixels in place of CIFAR's."""

    def __init__(self) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (5000, 32, 32, 3), dtype=np.uint8)
        self.transform = v2.Compose(
            [
                v2.RandomCrop(32, padding=4),
                v2.RandomHorizontalFlip(),
                v2.RandAugment(2, 9, interpolation=v2.InterpolationMode.BILINEAR),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
                v2.RandomErasing(0.25),
            ]
        )

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), index % 10


def main(workers: int) -> None:
    torch.set_num_threads(1)
    mixing = v2.RandomChoice([v2.MixUp(alpha=0.8, num_classes=10), v2.CutMix(num_classes=10)])
    loader = torch.utils.data.DataLoader(
        Pictures(), batch_size=128, shuffle=True, num_workers=workers, persistent_workers=True
    )
    for _ in range(2):  # the first starts the workers
        began, images = time.perf_counter(), 0
        for batch in loader:
            mixed, _ = mixing(*batch)
            images += len(mixed)
    print(images / (time.perf_counter() - began))


if __name__ == "__main__":
    main(int(sys.argv[1]))

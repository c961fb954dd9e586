"""Fine-tune a ViT on images in folders through the trainer's Python functions, and predict.

python examples/fine_tune_folder.py                    # weights and images that it makes itself
python examples/fine_tune_folder.py WEIGHTS FOLDER     # FOLDER/train/CLASS/…, FOLDER/val/CLASS/…
"""

import sys
from pathlib import Path

from colours import save_folder, save_weights

from vit_jax.config import Config
from vit_jax.data.source import DataConfig
from vit_jax.inference.images import find_images
from vit_jax.inference.predict import predict
from vit_jax.inference.saved import open_model
from vit_jax.optim import OptimConfig
from vit_jax.runs.folder import RunFolder
from vit_jax.train.loop import train
from vit_jax.train.setup import set_up


def main(weights: str, root: str) -> None:
    """Train ten epochs into a fresh folder under runs/, and predict two held-out images."""
    config = Config(
        pretrained=weights,
        data=DataConfig("folder", root, train_split="train", eval_split="val", test_split=None),
        optim=OptimConfig(learning_rate=1e-3, warmup_epochs=1, clip_norm=1.0),
        batch_size=16,
        epochs=10,
    )
    run = RunFolder.numbered("runs", "fine_tune")
    outcome = train(set_up(config), run)
    print(f"held-out accuracy {outcome.summary['eval_accuracy']:.1%}, all of it in {run.path}")
    for found in predict(open_model(run.path), find_images([f"{root}/val/*/*0.png"])):
        print(f"{found.file}: {found.classes[0]} {found.probabilities[0]:.0%}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1], sys.argv[2])
    else:
        made = Path("runs/colours")
        save_weights(made / "weights")
        save_folder(made / "images")
        main(str(made / "weights"), str(made / "images"))

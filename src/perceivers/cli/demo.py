"""`make demo`: train on digits, evaluate, predict three images. The commands of the start page, as one program."""

import sys
import time
from pathlib import Path

RECIPE = Path("recipes/digits.yaml")
IMAGES = 3


def main(recipe: Path = RECIPE, folder: Path | None = None) -> None:
    """Run the demo in `folder` (default: a fresh runs/demo-<time>); the last line printed is accuracy and seconds."""
    started = time.monotonic()
    folder = folder or Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")
    import perceivers

    print(f"training by {recipe} into {folder}", flush=True)
    perceivers.train(recipe, out=folder)
    scores = perceivers.evaluate(folder, split="test")
    accuracy = scores["scores"]["label"]["accuracy"]
    print(f"\n{scores['samples']} images of the test split, which training never saw:")
    for name, value in scores["scores"]["label"].items():
        print(f"  {name:<10} {value:.4f}")
    images, labels = write_images(folder / "images")
    print(f"\n{len(images)} of them, written as files and read back by predict:")
    for label, answer in zip(labels, perceivers.predict(folder, images), strict=True):
        print(f"  {answer['file']}: {answer['label']} with probability {answer['label_probability']:.3f} (is {label})")
    print("\nlook at")
    for path in sorted([*folder.glob("*.png"), *folder.glob("evaluation-test/*.png")]):
        print(f"  {path}")
    print(f"  {folder / 'model' / 'card.md'}")
    print(f"demo: accuracy {accuracy:.3f} in {time.monotonic() - started:.0f} s")


def write_images(folder: Path) -> tuple[list[Path], list[str]]:
    """PNG files of three test digits, spread over the split, and what they are."""
    from PIL import Image

    from perceivers.data.named import named
    from perceivers.data.table import TEST

    test = named("digits").load()[TEST]
    chosen = test.take(range(0, len(test), -(-len(test) // IMAGES)))
    folder.mkdir(parents=True)
    paths = [folder / f"digit-{number}.png" for number in range(1, len(chosen) + 1)]
    for path, image in zip(paths, chosen.column("image"), strict=True):
        Image.fromarray(image[:, :, 0]).save(path)
    return paths, [str(label) for label in chosen.column("label")]


if __name__ == "__main__":
    from perceivers.errors import PerceiversError

    try:
        main()
    except PerceiversError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)

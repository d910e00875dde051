"""PALP without ComfyUI: learn a subject on a diffusers model, save one file, and draw the target prompt with it.

    python examples/headless.py --model path/to/sd15.safetensors --images my_cat/ --class-word cat \\
        --prompt "a sketch of [V] in Paris at night"

Without --model a tiny random model is made on the spot and nothing is downloaded: its pictures are noise, but every
step of the way is the real one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from palp_core import AlignmentConfig, Personalization, PersonalizationConfig, Subject, load_lora_file, save_run
from palp_core.chart import loss_chart
from palp_core.diffusers_backbone import DiffusersBackbone, load_file_into, load_pipeline

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, help="a diffusers folder or a .safetensors checkpoint; none: a tiny random one"
    )
    parser.add_argument("--images", type=Path, help="a folder of photos; none: scikit-image's cat")
    parser.add_argument("--class-word", default="cat")
    parser.add_argument("--prompt", default="a sketch of [V] in Paris at night")
    parser.add_argument("--steps", type=int, default=None, help="500 with a model of yours, 30 on the tiny one")
    parser.add_argument("--resolution", type=int, default=None, help="512 with a model of yours, 64 on the tiny one")
    parser.add_argument("--alignment-weight", type=float, default=AlignmentConfig.weight)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("demo_output"))
    return parser.parse_args()


def read_images(folder: Path | None) -> tuple[torch.Tensor, ...]:
    """Photos as (H, W, 3) in 0..1."""
    if folder is None:
        from skimage import data

        return (torch.from_numpy(data.chelsea()).float() / 255,)
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    pictures = (np.asarray(Image.open(path).convert("RGB")) for path in files)
    return tuple(torch.from_numpy(p.copy()).float() / 255 for p in pictures)


def open_pipeline(model: Path | None):
    if model is not None:
        return load_pipeline(model, torch.bfloat16 if torch.cuda.is_available() else torch.float32)
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # where the builder of random models is
    from tiny import tiny_pipeline

    with tempfile.TemporaryDirectory() as folder:
        return tiny_pipeline("sd1", Path(folder))


def write_picture(pixels: torch.Tensor, path: Path) -> None:
    Image.fromarray((pixels * 255).round().byte().numpy()).save(path)


def main() -> None:
    args = arguments()
    tiny = args.model is None
    steps, resolution = args.steps or (30 if tiny else 500), args.resolution or (64 if tiny else 512)
    pipeline = open_pipeline(args.model)
    pipeline.set_progress_bar_config(disable=True)
    backbone = DiffusersBackbone(pipeline)
    config = PersonalizationConfig(
        steps=steps, resolution=resolution, seed=args.seed, alignment=AlignmentConfig(weight=args.alignment_weight)
    )
    run = Personalization(backbone, [Subject(read_images(args.images), args.class_word)], args.prompt, config)

    history = []
    with tqdm(run.steps(), total=steps) as bar:
        for step in bar:
            history.append(step)
            bar.set_postfix(denoising=f"{step.denoising_loss:.3f}", gap=f"{step.score_gap:.3f}")
    path = save_run(run, args.out, "my_subject")
    write_picture(loss_chart(history), path.with_suffix(".loss.png"))

    prompt = load_file_into(pipeline, load_lora_file(path))
    pipeline.to(backbone.device)
    generator = torch.Generator(backbone.device).manual_seed(args.seed)
    picture = pipeline(prompt, generator=generator, num_inference_steps=25, height=resolution, width=resolution).images[
        0
    ]
    picture.save(path.with_suffix(".png"))
    print(f"saved {path}, its loss chart and a picture of {prompt!r}")


if __name__ == "__main__":
    main()

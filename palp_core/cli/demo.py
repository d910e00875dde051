"""`palp demo`: PALP beside plain training, on the model that comes with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ..files.safetensors_file import reserve
from ..toyworld import DemoModel
from ..toyworld.scenes import ClassWord
from ..training.loop import Step
from .output import show


@dataclass(frozen=True)
class Demo:
    """Teach the embedded model one subject, once by plain training and once by PALP, and show both side by side.

    Needs no GPU and downloads nothing; takes some minutes on two CPU cores.
    """

    #: Writes the picture (demo.png), the loss charts and the LoRA files into this folder.
    out: Path = Path("demo_output")
    #: Chooses the kind of subject.
    subject: ClassWord = "cat"
    #: Describes pictures that you have in mind, with [V] for the subject; none takes ours. Styles: photo, sketch, pixel
    #: art, neon sign, watercolor. With a hat, scarf or balloon. On the beach, in the snow, in the city at night, in a
    #: meadow, in the desert, in a room.
    target_prompts: tuple[str, ...] = ()
    #: Chooses which individual it is, and everything else that is random.
    seed: int = 1
    #: Trains the UNet, of Stable Diffusion's kind, or the transformer, of Z-Image's kind, which takes fewer steps.
    network: DemoModel = "unet"
    #: Trains each method for so many steps; none takes 140 for the UNet and 60 for the transformer.
    steps: int | None = None
    #: Prints the figures as JSON in place of the table.
    json: bool = False

    def run(self) -> None:
        from ..toyworld import demo
        from ..toyworld.world import load_world

        prompts = self.target_prompts or demo.DEFAULT_PROMPTS
        reserve(self.out, "demo", overwrite=True)
        world, steps = load_world(model=self.network), self.steps or demo.STEPS[self.network]
        with tqdm(total=steps * (1 + len(prompts)), unit="step") as bar:

            def report(method: str, _step: Step) -> None:
                bar.set_description(demo.METHODS[method], refresh=False)
                bar.update()

            result = demo.run_demo(world, self.subject, prompts, self.seed, steps, self.out, report)
        where = f"{self.out / 'demo.png'} shows them; beside it are the loss charts and the LoRA files."
        show(f"{demo.as_table(result)}\n{where}", demo.as_json(result), self.json)

"""The command `palp`: prompt-aligned personalization without ComfyUI."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import torch
import tyro
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from .chart import loss_chart
from .checkpoint import save_tensors
from .lora_file import check_can_save, check_file_name, load_lora_file, save_run
from .personalization import Personalization, PersonalizationConfig, Subject, TrainingStep
from .picture_file import picture_files, read_picture, write_picture
from .toyworld.scenes import ClassWord

SAVE_STATE_EVERY = 50  # steps


@dataclass(frozen=True)
class Demo:
    """Teach the embedded model one subject, once by plain training and once by PALP, and show both side by side.

    Needs no GPU and downloads nothing; takes some minutes on two CPU cores.
    """

    #: Folder for the picture (demo.png), the loss chart and the LoRA files.
    out: Path = Path("demo_output")
    #: Kind of subject.
    subject: ClassWord = "cat"
    #: Pictures that you have in mind, with [V] for the subject; none for three of ours. Styles: photo, sketch, pixel
    #: art, neon sign, watercolor. With a hat, scarf or balloon. On the beach, in the snow, in the city at night, in a
    #: meadow, in the desert, in a room.
    prompt: tuple[str, ...] = ()
    #: Which individual it is, and everything else that is random.
    seed: int = 1
    #: Training steps of each method.
    steps: int = 120
    #: A file to write the figures to.
    json: Path | None = None

    def run(self) -> None:
        from .toyworld import demo
        from .toyworld.world import load_world

        prompts = self.prompt or demo.DEFAULT_PROMPTS
        self.out.mkdir(parents=True, exist_ok=True)
        with tqdm(total=self.steps * (1 + len(prompts)), unit="step") as bar:

            def report(method: str, _step: TrainingStep) -> None:
                bar.set_description(demo.METHODS[method])
                bar.update()

            result = demo.run_demo(load_world(), self.subject, prompts, self.seed, self.steps, self.out, report)
        print(demo.as_table(result))
        print(f"{self.out / 'demo.png'} shows them; beside it are the loss chart and the LoRA files.")
        if self.json:
            self.json.write_text(json.dumps(demo.as_json(result), indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Train:
    """Train PALP on your own model and photos. Stopped with Ctrl-C, it keeps what it has learned; --resume goes on."""

    #: A diffusers folder or a .safetensors checkpoint of Stable Diffusion 1.x, 2.x or SDXL.
    model: Path
    #: Photos of the subject, or one folder of them.
    images: tuple[Path, ...]
    #: What the subject is, in a word that the model knows: cat.
    class_word: str
    #: The picture that you have in mind, with [V] for the subject: "a sketch of [V] in Paris".
    prompt: str
    #: Masks of the photos in the same order, white where the subject is, or one folder of them.
    masks: tuple[Path, ...] = ()
    #: The neutral prompt of the photos; empty for "a photo of [V]".
    personalization_prompt: str = ""
    #: Folder for the file, its loss chart and, while unfinished, the training's state.
    out: Path = Path("loras")
    #: Name of the file.
    name: str = "palp"
    #: Go on with the unfinished training of this name.
    resume: bool = False
    #: Where to compute: cuda, cpu or mps; none for CUDA if there is one.
    device: str | None = None
    #: Number format of the computation.
    precision: Annotated[str, tyro.conf.arg(metavar="{auto,fp32,bf16,fp16}")] = "auto"
    config: Annotated[PersonalizationConfig, tyro.conf.arg(name="")] = field(default_factory=PersonalizationConfig)

    def run(self) -> None:
        name = check_file_name(self.name)
        check_can_save(self.out, name)
        subject = Subject(
            tuple(read_picture(path) for path in picture_files(self.images)),
            self.class_word,
            personalization_prompt=self.personalization_prompt,
            masks=tuple(read_picture(path).mean(dim=-1) for path in picture_files(self.masks)),
        )
        run = Personalization(self._backbone(), [subject], self.prompt, self.config)
        unfinished = self.out / f".{name}.unfinished.safetensors"
        identity = run_identity(subject, run)
        state, history = self._earlier(unfinished, identity)
        try:
            with (
                closing(run.steps(state)) as steps,
                tqdm(steps, total=self.config.steps, initial=len(history), unit="step") as bar,
            ):
                for step in bar:
                    history.append(step)
                    bar.set_postfix(denoising=f"{step.denoising_loss:.3f}", gap=f"{step.score_gap:.3f}")
                    if len(history) % SAVE_STATE_EVERY == 0:
                        save_unfinished(unfinished, run, history, identity)
        except KeyboardInterrupt:
            if run.weights is None:
                sys.exit("palp: stopped before the first step.")
            print("stopped: what was learned until now is kept; --resume goes on.", file=sys.stderr)
        path = save_run(run, self.out, name)
        write_picture(loss_chart(history), path.with_suffix(".loss.png"))
        if run.weights.steps == self.config.steps:
            unfinished.unlink(missing_ok=True)
        print(path)

    def _backbone(self):
        from .diffusers_backbone import DiffusersBackbone, load_pipeline

        half = (self.device or "").startswith("cuda") or (self.device is None and torch.cuda.is_available())
        pipeline = load_pipeline(self.model, torch.bfloat16 if half and self.precision != "fp32" else torch.float32)
        return DiffusersBackbone(pipeline, self.device, self.precision)

    def _earlier(self, file: Path, identity: str) -> tuple[dict[str, Tensor] | None, list[TrainingStep]]:
        if not self.resume:
            return None, []
        if not file.exists():
            raise ValueError(f"there is no unfinished training {file}. Leave out --resume.")
        with safe_open(file, "pt") as opened:
            found = opened.metadata()
        if found["identity"] != identity:
            raise ValueError(
                f"{file} was begun with other photos, prompts or settings. Give the same, or another name."
            )
        return load_file(file), [TrainingStep(*row) for row in json.loads(found["history"])]


@dataclass(frozen=True)
class Generate:
    """Draw pictures with a trained file."""

    #: The trained .safetensors file.
    file: tyro.conf.Positional[Path]
    #: The model it was trained on: a diffusers folder or a .safetensors checkpoint.
    model: Path
    #: What to draw, with [V] for the subject; empty for the prompt it was trained for.
    prompt: str = ""
    #: What not to draw.
    negative_prompt: str = ""
    #: Number of pictures.
    count: int = 4
    #: Folder for the pictures.
    out: Path = Path("pictures")
    #: Of the initial noise.
    seed: int = 0
    #: Sampling steps.
    steps: int = 25
    #: Classifier-free guidance.
    guidance_scale: float = 7.5
    #: Side of the pictures in pixels; none for the model's own.
    size: int | None = None

    def run(self) -> None:
        from .diffusers_backbone import load_file_into, load_pipeline

        trained = load_lora_file(self.file)
        if self.prompt:
            trained = replace(trained, info=replace(trained.info, target_prompt=self.prompt))
        cuda = torch.cuda.is_available()
        pipeline = load_pipeline(self.model, torch.float16 if cuda else torch.float32).to("cuda" if cuda else "cpu")
        prompt = load_file_into(pipeline, trained)
        self.out.mkdir(parents=True, exist_ok=True)
        for number in range(self.count):
            picture = pipeline(
                prompt,
                negative_prompt=self.negative_prompt,
                generator=torch.Generator().manual_seed(self.seed + number),
                num_inference_steps=self.steps,
                guidance_scale=self.guidance_scale,
                height=self.size,
                width=self.size,
            ).images[0]
            path = self.out / f"{self.file.stem}_{self.seed + number}.png"
            picture.save(path)
            print(path)


@dataclass(frozen=True)
class Info:
    """Say what a trained file is and how to use it."""

    #: The trained .safetensors file.
    file: tyro.conf.Positional[Path]
    #: Everything, as JSON.
    json: bool = False

    def run(self) -> None:
        trained = load_lora_file(self.file)
        info = trained.info
        if self.json:
            print(json.dumps(asdict(info), indent=2, ensure_ascii=False))
            return
        print(f"{self.file.name}: PALP {info.version}, for {info.family} ({info.prediction} prediction)")
        print(f"trained for     {info.target_prompt}")
        print(f"kept meaning    {info.clean_prompt}")
        for subject in info.subjects:
            vectors = ", ".join(f"{e} {tuple(v.shape)}" for e, v in trained.words[subject.embedding].items())
            print(f"{subject.placeholder:15} a {subject.class_word} from {subject.images} photos; word: {vectors}")
        print(f"LoRA            {trained.projections} projections, rank {info.rank}, {info.steps} steps")
        print(f"in ComfyUI      Load PALP LoRA, then: {info.prompt}")


# --- an unfinished training ------------------------------------------------------------------------------------------


def run_identity(subject: Subject, run: Personalization) -> str:
    """Photos, prompts and settings of a run in a few letters: an unfinished training goes on with the same only."""
    digest = sha256(json.dumps([asdict(run.config), run.target_prompt, run.clean_prompt, subject.class_word]).encode())
    digest.update(subject.personalization_prompt.encode())
    for tensor in (*subject.images, *subject.masks):
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def save_unfinished(file: Path, run: Personalization, history: list[TrainingStep], identity: str) -> None:
    save_tensors(file, run.state(), {"identity": identity, "history": json.dumps(history)})


def main() -> None:
    commands = {"demo": Demo, "train": Train, "generate": Generate, "info": Info}
    chosen = tyro.extras.subcommand_cli_from_dict(commands, prog="palp", description=__doc__)
    try:
        chosen.run()
    except ValueError as error:
        sys.exit(f"palp: {error}")


if __name__ == "__main__":
    main()

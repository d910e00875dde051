"""The command `palp`: prompt-aligned personalization without ComfyUI."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from glob import escape
from pathlib import Path
from signal import SIGINT, signal
from tempfile import gettempdir
from threading import Event
from typing import Annotated

import torch
import tyro
from safetensors import SafetensorError
from torch import Tensor
from tqdm import tqdm
from transformers.utils.logging import set_verbosity_error

from ..files.embedding_file import check_can_save as check_can_save_word
from ..files.embedding_file import first_writable_folder, load_embedding
from ..files.images import picture_files, read_picture, write_picture
from ..files.lora_file import check_can_save, load_lora_file, save_run
from ..files.names import check_file_name
from ..files.run_folder import Unfinished, run_identity
from ..files.safetensors_file import keep_unfinished, save_somewhere
from ..methods.personalization import Personalization, PersonalizationConfig, Subject, TrainingStep
from ..methods.textual_inversion import (
    Concept,
    Kind,
    TextualInversion,
    TextualInversionConfig,
    described_word,
    save_word,
)
from ..models.backbone import DTYPES, Precision
from ..models.prompts import check_known
from ..toyworld.scenes import ClassWord
from ..training.chart import loss_chart
from ..training.objective import OUT_OF_MEMORY, NonFiniteLossError

SAVE_STATE_EVERY = 50  # steps
#: What is told in one line, without a traceback.
EXPECTED = (ValueError, OSError, SafetensorError, NonFiniteLossError, torch.cuda.OutOfMemoryError)


@dataclass(frozen=True)
class Demo:
    """Teach the embedded model one subject, once by plain training and once by PALP, and show both side by side.

    Needs no GPU and downloads nothing; takes some minutes on two CPU cores.
    """

    #: Folder for the picture (demo.png), the loss charts and the LoRA files.
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
    steps: int = 140
    #: A file to write the figures to.
    json: Path | None = None

    def run(self) -> None:
        from ..toyworld import demo
        from ..toyworld.world import load_world

        prompts = self.prompt or demo.DEFAULT_PROMPTS
        check_can_save(self.out, "demo")
        if self.json:
            self.json.parent.mkdir(parents=True, exist_ok=True)
            if self.json.is_dir():
                raise ValueError(f"--json {self.json} is a folder. Name a file.")
        world = load_world()
        with tqdm(total=self.steps * (1 + len(prompts)), unit="step") as bar:

            def report(method: str, _step: TrainingStep) -> None:
                bar.set_description(demo.METHODS[method], refresh=False)
                bar.update()

            result = demo.run_demo(world, self.subject, prompts, self.seed, self.steps, self.out, report)
        print(demo.as_table(result))
        print(f"{self.out / 'demo.png'} shows them; beside it are the loss charts and the LoRA files.")
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
    #: A word learned before, a .safetensors file, to start from in place of the class word.
    initial_embedding: Path | None = None
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
    #: Number format of the computation; auto is bf16 on a GPU, else fp32.
    precision: Precision = "auto"
    config: Annotated[PersonalizationConfig, tyro.conf.arg(name="")] = field(default_factory=PersonalizationConfig)

    def run(self) -> None:
        name = check_file_name(self.name)
        check_can_save(self.out, name)
        subject = Subject(
            read_pictures(self.images),
            self.class_word,
            personalization_prompt=self.personalization_prompt,
            masks=read_masks(self.masks),
            initial_embedding=load_embedding(self.initial_embedding) if self.initial_embedding else None,
        )
        backbone = training_backbone(self.model, self.device, self.precision)
        run = Personalization(backbone, [subject], self.prompt, self.config)
        unfinished = Unfinished(self.out / f".{name}.unfinished.safetensors", run_identity(subject, run))
        state, history = unfinished.earlier(self.resume)
        if len(history) > self.config.steps:
            raise ValueError(f"steps is {self.config.steps}, but {unfinished.file} has {len(history)} of them already.")
        save = partial(save_run, run, name=name)
        with kept_on_failure(run, save, self.out):
            try:
                stopped = self._train(run, unfinished, state, history)
            except NonFiniteLossError:
                unfinished.file.unlink(missing_ok=True)  # what goes on from there diverges again
                raise
        path = save_learned(save, self.out)
        if stopped:
            goes_on = "; --resume goes on" if unfinished.file.exists() else ""
            print(f"stopped: what was learned until now is kept{goes_on}.", file=sys.stderr)
        else:
            unfinished.file.unlink(missing_ok=True)
        write_picture(loss_chart(history), path.with_suffix(".loss.png"))

    def _train(
        self, run: Personalization, unfinished: Unfinished, state: dict[str, Tensor] | None, history: list[TrainingStep]
    ) -> bool:
        """Append the steps to the history. Returns whether Ctrl-C ended them before the last."""
        total = self.config.steps
        with (
            stop_at_ctrl_c() as stop,
            closing(run.steps(state)) as steps,
            tqdm(steps, total=total, initial=len(history), unit="step") as bar,
        ):
            for step in bar:
                history.append(step)
                bar.set_postfix(denoising=f"{step.denoising_loss:.3f}", gap=f"{step.score_gap:.3f}", refresh=False)
                stopped = stop.is_set() and len(history) < total
                if stopped or len(history) % SAVE_STATE_EVERY == 0:
                    save_state(unfinished, run, history)
                if stopped:
                    return True
        return False


def save_state(unfinished: Unfinished, run: Personalization, history: list[TrainingStep]) -> None:
    """What it is for is safety: where it fails, as on a full disk, the training itself goes on."""
    try:
        unfinished.save(run, history)
    except (OSError, SafetensorError) as error:
        logging.warning("the training's state could not be saved: %s", error)


@contextmanager
def kept_on_failure(run: Personalization | TextualInversion, save: Callable[[Path], Path], out: Path) -> Iterator[None]:
    """Inside, what a run that fails has learned is saved before the error goes on."""
    try:
        yield
    except Exception as error:
        outcome = keep_unfinished(run, save, folders_to_save_in(out))
        if not isinstance(error, EXPECTED):
            print(outcome, file=sys.stderr)
            raise
        cause = OUT_OF_MEMORY if isinstance(error, torch.cuda.OutOfMemoryError) else error
        sys.exit(f"palp: {cause} {outcome}")


def save_learned(save: Callable[[Path], Path], out: Path) -> Path:
    """Save in the folder asked for, or where that fails in another; print where."""
    path = save_somewhere(save, folders_to_save_in(out))
    print(path)
    return path


def folders_to_save_in(out: Path) -> list[Path]:
    """The one asked for, and others for when it cannot be written to."""
    return [out, Path.cwd(), Path(gettempdir())]


@dataclass(frozen=True)
class LearnWord:
    """Learn a word by Textual Inversion; the model stays as it is. Ctrl-C keeps what was learned until then."""

    #: A diffusers folder or a .safetensors checkpoint of Stable Diffusion 1.x, 2.x or SDXL.
    model: Path
    #: Pictures to learn from, 3 to 5, or one folder of them.
    images: tuple[Path, ...]
    #: Coarsely what they show, in one word that the model knows: cat, painting. Learning starts there.
    initial_word: str = ""
    #: A word learned before, a .safetensors file, to start from instead.
    initial_embedding: Path | None = None
    #: object: what the pictures show. style: how they are made.
    kind: Kind = "object"
    #: Masks of the pictures in the same order, white where the subject is, or one folder of them.
    masks: tuple[Path, ...] = ()
    #: Sentences to learn with, {} for the word; none for neutral ones.
    templates: tuple[str, ...] = ()
    #: A sentence for each picture, {} for the word, in place of templates.
    captions: tuple[str, ...] = ()
    #: Folder for the file and its loss chart.
    out: Path = Path("embeddings")
    #: Name of the word and its file.
    name: str = "my_word"
    #: Replace a word of this name.
    overwrite: bool = False
    #: Where to compute: cuda, cpu or mps; none for CUDA if there is one.
    device: str | None = None
    #: Number format of the computation; auto is bf16 on a GPU, else fp32.
    precision: Precision = "auto"
    config: Annotated[TextualInversionConfig, tyro.conf.arg(name="")] = field(default_factory=TextualInversionConfig)

    def run(self) -> None:
        name = check_can_save_word(first_writable_folder([self.out]), self.name, self.overwrite)
        concept = Concept(
            read_pictures(self.images),
            self.initial_word,
            self.kind,
            read_masks(self.masks),
            self.templates,
            self.captions,
            load_embedding(self.initial_embedding) if self.initial_embedding else None,
        )
        run = TextualInversion(training_backbone(self.model, self.device, self.precision), concept, self.config)
        history: list[TrainingStep] = []

        def save(folder: Path) -> Path:
            return save_word(run, folder, name, overwrite=self.overwrite and folder == self.out)

        with kept_on_failure(run, save, self.out), stop_at_ctrl_c() as stop, closing(run.steps()) as steps:
            for step in (bar := tqdm(steps, total=self.config.steps, unit="step")):
                history.append(step)
                bar.set_postfix(denoising=f"{step.denoising_loss:.3f}", refresh=False)
                if stop.is_set():
                    break
        path = save_learned(save, self.out)
        write_picture(loss_chart(history), path.with_suffix(".loss.png"))


def read_pictures(paths: tuple[Path, ...]) -> tuple[Tensor, ...]:
    """Files, or one folder of them -> (H, W, 3) in 0..1 each."""
    return tuple(read_picture(path) for path in picture_files(paths))


def read_masks(paths: tuple[Path, ...]) -> tuple[Tensor, ...]:
    """The same as (H, W) in 0..1 each."""
    return tuple(picture.mean(dim=-1) for picture in read_pictures(paths))


def training_backbone(model: Path, device: str | None, precision: Precision):
    from ..models.diffusers.backbone import DiffusersBackbone, chosen_device, load_pipeline

    on_gpu = {"auto": torch.bfloat16, **DTYPES}
    dtype = on_gpu[precision] if chosen_device(device).type == "cuda" else torch.float32
    return DiffusersBackbone(load_pipeline(model, dtype), device, precision)


@dataclass(frozen=True)
class Generate:
    """Draw pictures with a trained file, or with a learned word."""

    #: The trained file, or a learned word (.safetensors).
    file: tyro.conf.Positional[Path]
    #: A diffusers folder or a .safetensors checkpoint, of the family that it was trained on, best that very one.
    model: Path
    #: What to draw, with [V] for the subject; empty for the prompt it was trained for, or "a photo of [V]".
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
    #: Where to compute: cuda, cpu or mps; none for CUDA if there is one.
    device: str | None = None

    def run(self) -> None:
        from ..models.diffusers.backbone import check_length, chosen_device

        for name in ("count", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        pipeline, prompt = self._loaded(chosen_device(self.device))
        for text in (prompt, self.negative_prompt):
            check_length(pipeline, text)
        self.out.mkdir(parents=True, exist_ok=True)
        paths = free_paths(self.out, self.file.stem, self.count)
        for number, path in enumerate(paths):
            picture = pipeline(
                prompt,
                negative_prompt=self.negative_prompt,
                generator=torch.Generator().manual_seed(self.seed + number),
                num_inference_steps=self.steps,
                guidance_scale=self.guidance_scale,
                height=self.size,
                width=self.size,
            ).images[0]
            picture.save(path)
            print(path)

    def _loaded(self, device: torch.device):
        """The pipeline with what was learned in it, and the prompt to draw."""
        word = described_word(self.file)
        return self._with_lora(device) if word is None else self._with_word(word["family"], device)

    def _with_lora(self, device: torch.device):
        from ..models.diffusers.backbone import load_file_into

        trained = load_lora_file(self.file)
        check_known("prompt", self.prompt, [subject.placeholder for subject in trained.info.subjects])
        if self.prompt:
            trained = replace(trained, info=replace(trained.info, target_prompt=self.prompt))
        pipeline = self._pipeline(device)
        return pipeline, load_file_into(pipeline, trained)

    def _with_word(self, family: str, device: torch.device):
        from ..models.diffusers.backbone import load_word_into

        prompt = self.prompt or "a photo of [V]"
        check_known("prompt", prompt, ["[V]"])
        word = load_embedding(self.file)
        pipeline = self._pipeline(device)
        return pipeline, load_word_into(pipeline, word, family, prompt)

    def _pipeline(self, device: torch.device):
        from ..models.diffusers.backbone import load_pipeline

        return load_pipeline(self.model, torch.float16 if device.type == "cuda" else torch.float32).to(device)


def free_paths(folder: Path, name: str, count: int) -> list[Path]:
    """NAME_00001.png and so on: the next numbers behind those that are there."""
    numbers = (path.stem[len(name) + 1 :] for path in folder.glob(f"{escape(name)}_*.png"))
    taken = [int(number) for number in numbers if number.isdigit()]
    first = max(taken, default=0) + 1
    return [folder / f"{name}_{number:05}.png" for number in range(first, first + count)]


@dataclass(frozen=True)
class Info:
    """Say what a trained file, or a learned word, is and how to use it."""

    #: The trained file, or a learned word (.safetensors).
    file: tyro.conf.Positional[Path]
    #: Everything, as JSON.
    json: bool = False

    def run(self) -> None:
        if self.file.is_dir():
            raise ValueError(f"{self.file} is a folder. Name the file in it.")
        if (word := described_word(self.file)) is not None:
            self._show_word(word)
            return
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

    def _show_word(self, word: dict) -> None:
        if self.json:
            print(json.dumps(word, indent=2, ensure_ascii=False))
            return
        print(f"{self.file.name}: a word by PALP {word['version']}, for {word['family']}")
        start = word["initial_word"] or word["initial_embedding"]
        print(f"learned from    {word['images']} images of a kind of {word['kind']}, starting at {start!r}")
        print(f"vectors         {word['vectors']}, {word['steps']} steps")
        print(f"in ComfyUI      in models/embeddings: embedding:{self.file.stem}")


@contextmanager
def stop_at_ctrl_c() -> Iterator[Event]:
    """Inside, the first Ctrl-C sets the event, so that a step can be ended; a second one interrupts as usual."""
    asked = Event()

    def note(*_) -> None:
        asked.set()
        signal(SIGINT, usual)

    usual = signal(SIGINT, note)
    try:
        yield asked
    finally:
        signal(SIGINT, usual)


def main() -> None:
    # Where torchvision is missing, which we do not need, transformers says so twice in every command.
    set_verbosity_error()
    # What takes its place is unknown to the older diffusers that we support.
    warnings.filterwarnings("ignore", "`torch_dtype`", FutureWarning)
    commands = {"demo": Demo, "train": Train, "learn-word": LearnWord, "generate": Generate, "info": Info}
    chosen = tyro.extras.subcommand_cli_from_dict(commands, prog="palp", description=__doc__)
    try:
        chosen.run()
    except EXPECTED as error:
        sys.exit(f"palp: {error}")
    except KeyboardInterrupt:
        sys.exit("palp: stopped.")


if __name__ == "__main__":
    main()

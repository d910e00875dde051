"""`palp generate`: pictures with a trained file, or with a learned word."""

from __future__ import annotations

import glob
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

from ..errors import ModelError, SettingError
from ..files.embedding_file import described_word, load_embedding
from ..files.images import write_picture
from ..files.lora_file import LoraFile, load_lora_file
from ..models.backbone import LearnedWords
from ..models.prompts import check_known, check_prompt
from ..models.wording import put_words

UNET_GUIDANCE = 7.5


@dataclass(frozen=True)
class Generate:
    """Generate pictures with a trained file, or with a learned word."""

    #: Loads this trained file, or this learned word (.safetensors).
    file: tyro.conf.Positional[Path]
    #: Loads this model, a diffusers folder or a .safetensors checkpoint of the family that it was trained on.
    model: Path
    #: Describes the pictures, with [V] for the subject; empty is the prompt it was trained for, or "a photo of [V]".
    prompt: str = ""
    #: Describes what is not to be in the pictures, where the model reads such a prompt.
    negative_prompt: str = ""
    #: Generates so many pictures.
    count: int = 4
    #: Writes the pictures into this folder.
    out: Path = Path("pictures")
    #: Fixes the initial noise.
    seed: int = 0
    #: Takes so many sampling steps.
    steps: int = 25
    #: Sets the scale of guidance; none is 7.5 for Stable Diffusion 1.x, 2.x and SDXL, and others' own.
    guidance_scale: float | None = None
    #: Sets the side of the pictures in pixels; none is the model's own.
    size: int | None = None
    #: Computes there: cuda, cpu or mps; none takes CUDA if there is one.
    device: str | None = None

    def run(self) -> None:
        from ..models.diffusers.loading import chosen_device

        for name in ("count", "steps"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        for name in ("prompt", "negative_prompt"):
            check_prompt(name, getattr(self, name))
        pipeline, options = self._loaded(chosen_device(self.device))
        self.out.mkdir(parents=True, exist_ok=True)
        paths = free_paths(self.out, self.file.stem, self.count)
        for number, path in enumerate(paths):
            picture = pipeline(
                generator=torch.Generator().manual_seed(self.seed + number),
                num_inference_steps=self.steps,
                height=self.size,
                width=self.size,
                **options,
            ).images[0]
            write_picture(picture, path)
            print(path)

    def _loaded(self, device: torch.device):
        """The pipeline with what was learned in it, and what it is asked for; an error where it would not read that."""
        word = described_word(self.file)
        return self._with_lora(device) if word is None else self._with_word(word["family"], device)

    def _with_lora(self, device: torch.device):
        from ..files.in_pipeline import load_file_into
        from ..models.diffusers.backbone import DiffusersBackbone
        from ..models.diffusers.flow import architecture_of

        trained = load_lora_file(self.file)
        check_known("prompt", self.prompt, [subject.placeholder for subject in trained.info.subjects])
        if self.prompt:
            trained = replace(trained, info=replace(trained.info, target_prompt=self.prompt))
        pipeline = self._pipeline(device)
        if architecture := architecture_of(pipeline):
            prompt = load_into_transformer(pipeline, architecture, trained)
            return pipeline, self._flow_options(pipeline, architecture, prompt, device)
        prompt, words = load_file_into(pipeline, trained)
        return pipeline, self._unet_options(DiffusersBackbone(pipeline, device), prompt, words)

    def _with_word(self, family: str, device: torch.device):
        from ..files.in_pipeline import named_word
        from ..models.diffusers.backbone import DiffusersBackbone
        from ..models.diffusers.flow import architecture_of
        from ..models.diffusers.flow_text import no_words

        prompt = self.prompt or "a photo of [V]"
        check_known("prompt", prompt, ["[V]"])
        word = load_embedding(self.file)
        pipeline = self._pipeline(device)
        if architecture := architecture_of(pipeline):
            raise no_words(architecture)
        backbone = DiffusersBackbone(pipeline, device)
        return pipeline, self._unet_options(backbone, prompt, named_word(backbone, word, family))

    def _pipeline(self, device: torch.device):
        from ..models.diffusers.loading import load_pipeline

        return load_pipeline(self.model, torch.float16 if device.type == "cuda" else torch.float32).to(device)

    def _unet_options(self, backbone, prompt: str, words: LearnedWords) -> dict:
        from ..models.diffusers.drawing import unet_prompts

        scale = UNET_GUIDANCE if self.guidance_scale is None else self.guidance_scale
        return {**unet_prompts(backbone, prompt, self.negative_prompt, words), "guidance_scale": scale}

    def _flow_options(self, pipeline, architecture, prompt: str, device: torch.device) -> dict:
        from ..models.diffusers.drawing import flow_prompts

        if self.negative_prompt and not architecture.reads_negative_prompt:
            raise SettingError(f"negative_prompt is given, but {architecture.family.title} reads none. Leave it out.")
        options = {} if self.guidance_scale is None else {architecture.guidance_option: self.guidance_scale}
        return {**flow_prompts(pipeline, architecture, prompt, self.negative_prompt, device), **options}


def load_into_transformer(pipeline, architecture, trained: LoraFile) -> str:
    """Put a file's LoRA on a pipeline with a transformer; returns the prompt to draw.

    Raises ModelError for a file of another family, PromptError for one whose subjects are learned words.
    """
    from ..models.diffusers.flow_lora import load_lora
    from ..models.diffusers.flow_text import no_words

    info, family = trained.info, architecture.family.name
    if info.family != family:
        raise ModelError(f"the file was made for {info.family}, and the model is {family}. Use one of its family.")
    if trained.words:
        raise no_words(architecture)
    load_lora(pipeline, architecture, trained.lora)
    return put_words(info.target_prompt, {subject.placeholder: subject.text for subject in info.subjects})


def free_paths(folder: Path, name: str, count: int) -> list[Path]:
    """NAME_00001.png and so on: the next numbers behind those that are there."""
    numbers = (path.stem[len(name) + 1 :] for path in folder.glob(f"{glob.escape(name)}_*.png"))
    taken = [int(number) for number in numbers if number.isdigit()]
    first = max(taken, default=0) + 1
    return [folder / f"{name}_{number:05}.png" for number in range(first, first + count)]

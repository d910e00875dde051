"""CLIP (arXiv 2103.00020) and DINOv2 (arXiv 2304.07193) as judges, from folders on disk; nothing is downloaded."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import ModelError, printable, quoted

#: What transformers raises for a folder that it cannot load; SafetensorError is no OSError and no ValueError.
UNLOADABLE = (OSError, ValueError, RuntimeError, LookupError, AttributeError, TypeError, ImportError)


class Kind(NamedTuple):
    """Which models a judge can be of, and how to get the usual one."""

    title: str
    option: str
    #: Model type in config.json -> class in transformers.
    classes: dict[str, str]
    #: The command that downloads one.
    download: str


CLIP = Kind(
    "CLIP",
    "--clip",
    {"clip": "CLIPModel"},
    "hf download openai/clip-vit-large-patch14 config.json model.safetensors preprocessor_config.json tokenizer.json "
    "tokenizer_config.json --local-dir clip-vit-large-patch14",
)
DINO = Kind(
    "DINOv2",
    "--dino",
    {"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"},
    "hf download facebook/dinov2-base config.json model.safetensors preprocessor_config.json --local-dir dinov2-base",
)


@dataclass(frozen=True)
class ClipJudge:
    """CLIP's two encoders with their projections. processor, tokenizer: those of transformers, beside the model."""

    model: Any
    processor: Any
    tokenizer: Any

    @torch.no_grad()
    def encode_pictures(self, pictures: Sequence[Tensor]) -> Tensor:
        """Encode pictures, (H, W, 3) in 0..1 each, into (N, D) on the CPU."""
        pixels = _pixels(self.processor, pictures).to(self.model.device)
        return self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output).cpu()

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode texts into (N, D) on the CPU. Of a text that is longer than CLIP reads the end is cut, with a log."""
        most = self.model.config.text_config.max_position_embeddings
        for text in texts:
            if (count := len(self.tokenizer(text).input_ids)) > most:
                logging.warning("CLIP reads %d of the %d tokens of the prompt %s.", most, count, quoted(text))
        options = {"padding": True, "truncation": True, "max_length": most, "return_tensors": "pt"}
        tokens = self.tokenizer(list(texts), **options).to(self.model.device)
        read = self.model.text_model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        return self.model.text_projection(read.pooler_output).cpu()


@dataclass(frozen=True)
class DinoJudge:
    """DINOv2's class token. processor: that of transformers, beside the model."""

    model: Any
    processor: Any

    @torch.no_grad()
    def encode_pictures(self, pictures: Sequence[Tensor]) -> Tensor:
        """Encode pictures, (H, W, 3) in 0..1 each, into (N, D) on the CPU."""
        pixels = _pixels(self.processor, pictures).to(self.model.device)
        return self.model(pixel_values=pixels).last_hidden_state[:, 0].cpu()


def load_clip(folder: Path, device: torch.device) -> ClipJudge:
    """Load CLIP from a folder in the layout of transformers. Raises ModelError, with the command that gets one."""
    from transformers import AutoTokenizer

    model, processor = _load(folder, CLIP, device)
    return ClipJudge(model, processor, _from(folder, CLIP, AutoTokenizer))


def load_dino(folder: Path, device: torch.device) -> DinoJudge:
    """Load DINOv2 from a folder in the layout of transformers. Raises ModelError, with the command that gets one."""
    return DinoJudge(*_load(folder, DINO, device))


def _pixels(processor: Any, pictures: Sequence[Tensor]) -> Tensor:
    """(N, 3, side, side) as the model was trained on, from pictures of any sizes."""
    in_8_bits = [(picture * 255).round().byte().numpy() for picture in pictures]
    return processor(images=in_8_bits, return_tensors="pt", input_data_format="channels_last").pixel_values


def _load(folder: Path, kind: Kind, device: torch.device) -> tuple[Any, Any]:
    """The model, whole and ready to judge, and its image processor."""
    import transformers

    name = kind.classes[_model_type(folder, kind)]
    options = {"use_safetensors": True, "output_loading_info": True}
    model, found = _from(folder, kind, getattr(transformers, name), **options)
    if found["missing_keys"]:  # transformers leaves them random
        raise _refusal(folder, kind, f"lacks weights, such as {printable(sorted(found['missing_keys'])[0])}")
    # Pillow resizes the same way on every machine; torchvision, which may be missing, does not resize as it does.
    processor = _from(folder, kind, transformers.AutoImageProcessor, backend="pil")
    return model.float().eval().to(device), processor


def _from(folder: Path, kind: Kind, what: Any, **options: Any) -> Any:
    """One part from the folder alone, without any code that lies in it."""
    from safetensors import SafetensorError

    try:
        return what.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    except (*UNLOADABLE, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise _refusal(folder, kind, f"cannot be loaded as {kind.title} ({printable(reason, 200)})") from error


def _model_type(folder: Path, kind: Kind) -> str:
    """The type that config.json names. Raises ModelError where a part is not there, or is of another model."""
    if not folder.is_dir():
        raise _refusal(folder, kind, "is no folder")
    for pattern in ("config.json", "preprocessor_config.json", "*.safetensors"):
        if not any(folder.glob(pattern)):
            raise _refusal(folder, kind, f"holds no {pattern}")
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (ValueError, LookupError, TypeError) as error:
        raise _refusal(folder, kind, "has a config.json without a model_type") from error
    if found not in kind.classes:
        raise _refusal(folder, kind, f"holds a model of type {quoted(str(found))}, and not {kind.title}")
    return found


def _refusal(folder: Path, kind: Kind, reason: str) -> ModelError:
    return ModelError(f"{kind.option} {folder} {reason}. This gets one: {kind.download}")

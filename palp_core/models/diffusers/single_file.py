"""Checkpoints of Stable Diffusion in one file, which hold weights alone: what diffusers needs beside them is here."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors import SafetensorError, safe_open

from ...errors import FileError, ModelError, printable

CONFIGURATIONS = Path(__file__).with_name("configurations")
#: How the names of a UNet's weights begin, and of one that tells how many channels it takes.
UNET_KEY = "model.diffusion_model.input_blocks."
INPUT_KEY = f"{UNET_KEY}0.0.weight"
CHANNELS = 4  # of latents
#: The text encoder by which a family is known: SDXL's second, that of 2.x, and that of 1.x.
TEXT_KEYS = {
    "sdxl": "conditioner.embedders.1.model.ln_final.weight",
    "sd2": "cond_stage_model.model.ln_final.weight",
    "sd1": "cond_stage_model.transformer.text_model.final_layer_norm.weight",
}
#: By which checkpoints of SDXL that predict v say so, and that their noise ends without a rest of signal.
V_KEY, ZERO_SNR_KEY = "v_pred", "ztsnr"
#: Of 2.x, the bias whose spread tells those that predict v from those that predict the noise, as ComfyUI tells them.
SPREAD_KEY = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
LEAST_SPREAD_OF_V = 0.09
START, END = "<|startoftext|>", "<|endoftext|>"


def load_checkpoint(path: Path, dtype: torch.dtype) -> DiffusionPipeline:
    """Load a .safetensors checkpoint of Stable Diffusion 1.x, 2.x or SDXL; nothing is downloaded.

    Raises ModelError for one of another kind, and FileError for one that cannot be read.
    """
    try:
        family, changes = _described(path)
    except SafetensorError as error:
        raise FileError(f"{path} cannot be read ({printable(str(error), 200)}). Copy or download it again.") from error
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    with configuration_folder(family, changes) as folder:
        try:
            return kind.from_single_file(path, config=str(folder), torch_dtype=dtype, local_files_only=True)
        except (ValueError, RuntimeError, KeyError) as error:
            raise ModelError(
                f"{path} is not laid out as Stable Diffusion is ({printable(str(error), 200)}). It may be a smaller "
                "model made of it: give such a one as a folder in the diffusers layout."
            ) from error


def _described(path: Path) -> tuple[str, dict[str, dict]]:
    """Which family a checkpoint is of, and what in its configuration is other than usual, by the file's header."""
    with safe_open(path, "pt") as file:
        keys = set(file.keys())
        if not any(key.startswith(UNET_KEY) for key in keys):
            raise ModelError(
                f"{path} is no checkpoint of Stable Diffusion 1.x, 2.x or SDXL. Give other models as a folder in the "
                "diffusers layout."
            )
        family = next((name for name, key in TEXT_KEYS.items() if key in keys), None)
        if family is None:
            raise ModelError(
                f"{path} holds a UNet without the text encoders of Stable Diffusion 1.x, 2.x or SDXL base, as the SDXL "
                "refiner does. Give a whole checkpoint of a base model."
            )
        channels = file.get_slice(INPUT_KEY).get_shape()[1]
        if channels != CHANNELS:
            raise ModelError(
                f"the UNet of {path} takes {channels} channels for latents of {CHANNELS}: it is an inpainting or "
                "editing model. Use a text-to-image model."
            )
        spread = file.get_tensor(SPREAD_KEY).float().std(correction=0).item() if SPREAD_KEY in keys else None
    return family, _unusual(family, keys, spread)


def _unusual(family: str, keys: set[str], spread: float | None) -> dict[str, dict]:
    """What differs from the family's usual configuration, by file."""
    scheduler = "scheduler/scheduler_config.json"
    if family == "sdxl" and V_KEY in keys:
        ends_in_noise = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        return {scheduler: {"prediction_type": "v_prediction", **(ends_in_noise if ZERO_SNR_KEY in keys else {})}}
    if family == "sd2" and spread is not None and spread <= LEAST_SPREAD_OF_V:
        return {scheduler: {"prediction_type": "epsilon"}, "unet/config.json": {"sample_size": 64}}
    return {}


@contextmanager
def configuration_folder(family: str, changes: dict[str, dict]) -> Iterator[Path]:
    """Make a family's configuration and tokenizers as a folder in the diffusers layout, which goes in the end.

    family: sd1, sd2 or sdxl. changes: file -> what is other than usual in it.
    """
    files: dict[str, dict] = json.loads((CONFIGURATIONS / f"{family}.json").read_text(encoding="utf-8"))
    with TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in files.items():
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_text(json.dumps({**content, **changes.get(file, {})}), encoding="utf-8")
        for tokenizer in folder.glob("tokenizer*"):
            _write_vocabulary(tokenizer)
        yield folder


def _write_vocabulary(folder: Path) -> None:
    """CLIP's byte pairs, and its tokens: all bytes, alone and at the end of a word, what pairs make, and both ends."""
    merges = lzma.decompress((CONFIGURATIONS / "clip_merges.txt.xz").read_bytes()).decode("utf-8")
    letters = _byte_letters()
    pairs = [line.replace(" ", "") for line in merges.splitlines()[1:]]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *pairs, START, END]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text(merges, encoding="utf-8")


def _byte_letters() -> list[str]:
    """A letter that can be seen for each byte: the byte's own where it has one, first, then those after Latin-1's."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in seen] + [chr(256 + n) for n in range(256 - len(seen))]

"""Stable Diffusion 1.x, 2.x and SDXL of the diffusers library as a Backbone, for use without ComfyUI."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor, nn

from ...files.embedding_file import Embedding
from ...files.lora_file import LoraFile
from ..attention import find_tokens, word_not_found
from ..backbone import (
    DTYPES,
    Backbone,
    Conditioning,
    Family,
    Placeholders,
    Precision,
    WordVectors,
    frozen,
    nearest_timestep,
)
from ..prompts import PLACEHOLDER, find_placeholders, mark_words, substitute, too_long, unknown_word, vector_numbers

Pipeline = StableDiffusionPipeline | StableDiffusionXLPipeline

#: Of a repository in the diffusers layout, all but the weights.
CONFIGURATION = ("*.json", "*.txt")
#: Noise level that stands for "no signal left" in schedules with zero terminal SNR; finite, as samplers use it.
SMALLEST_ALPHA_CUMPROD = 4.8973451890853435e-08


def load_pipeline(path: str | Path, dtype: torch.dtype = torch.float32) -> Pipeline:
    """A pipeline from a diffusers folder or a single .safetensors checkpoint on disk; nothing is downloaded.

    Raises ValueError when there is neither, the model is of another kind, or this machine lacks the configuration and
    the tokenizer that a single checkpoint does not hold.
    """
    path = Path(path)
    options = {"torch_dtype": dtype, "local_files_only": True}
    if path.is_dir():
        from diffusers import DiffusionPipeline

        pipeline = DiffusionPipeline.from_pretrained(path, use_safetensors=True, **options)
    elif path.suffix == ".safetensors" and path.is_file():
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            sdxl = any(key.startswith("conditioner.embedders.1.") for key in file.keys())
        kind = StableDiffusionXLPipeline if sdxl else StableDiffusionPipeline
        pipeline = kind.from_single_file(path, config=_configuration(path), **options)
    else:
        raise ValueError(f"{path} is neither a folder in the diffusers layout nor a .safetensors checkpoint.")
    if not isinstance(pipeline, Pipeline):
        raise ValueError(f"{path} holds a {type(pipeline).__name__}; PALP trains Stable Diffusion 1.x, 2.x and SDXL.")
    return pipeline


def _configuration(checkpoint: Path) -> str:
    """The folder with what a single checkpoint lacks, from the cache of huggingface_hub.

    from_single_file would find it too, but where it is missing downloads it without being asked.
    """
    from diffusers.loaders.single_file_utils import fetch_diffusers_config, load_single_file_checkpoint
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    source = fetch_diffusers_config(load_single_file_checkpoint(checkpoint))["pretrained_model_name_or_path"]
    try:
        return snapshot_download(source, allow_patterns=CONFIGURATION, local_files_only=True)
    except LocalEntryNotFoundError as error:
        wanted = " ".join(f"--include '{pattern}'" for pattern in CONFIGURATION)
        raise ValueError(
            f"{checkpoint} holds weights alone; its configuration and tokenizer are not on this machine. Get "
            f"these small files once with: hf download {source} {wanted}"
        ) from error


def chosen_device(device: torch.device | str | None) -> torch.device:
    """The one that is asked for, else CUDA if there is one. Raises ValueError for one that this machine lacks."""
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:  # torch's two ways of saying so
        raise ValueError(f"device {device} cannot be used: {str(error).splitlines()[0]}") from error
    return chosen


def load_file_into(pipeline: Pipeline, file: LoraFile) -> str:
    """Load a saved run's LoRA and words by diffusers' own loaders; returns the prompt to draw.

    Each word becomes a token of its name, and stays in the pipeline, as the LoRA does, until they are unloaded. Raises
    ValueError for a pipeline of another family.
    """
    _check_family(pipeline, file.info.family)
    pipeline.load_lora_weights({key: tensor.float() for key, tensor in file.lora.items()})
    return substitute(
        file.info.target_prompt,
        {s.placeholder: _load_word(pipeline, s.embedding, file.words[s.embedding]) for s in file.info.subjects},
    )


def load_word_into(pipeline: Pipeline, word: Embedding, family: Family, prompt: str) -> str:
    """Load a learned word by diffusers' own loader; returns the prompt with its token for each placeholder.

    family: of the model that it was learned on. Raises ValueError for a pipeline of another.
    """
    _check_family(pipeline, family)
    token = _load_word(pipeline, Path(word.name).stem, word.vectors)
    return substitute(prompt, dict.fromkeys(find_placeholders(prompt), token))


def check_length(pipeline: Pipeline, prompt: str) -> None:
    """Raise ValueError for a prompt of which the pipeline would lose the end."""
    tokens = len(pipeline.tokenizer(pipeline.maybe_convert_prompt(prompt, pipeline.tokenizer)).input_ids)
    longest = pipeline.text_encoder.config.max_position_embeddings
    if tokens > longest:
        raise too_long(prompt, tokens - 2, longest - 2)


def _check_family(pipeline: Pipeline, family: Family) -> None:
    if (found := _family(pipeline)) != family:
        raise ValueError(f"the file was made for {family}, and the model is {found}. Use one of its family.")


def _load_word(pipeline: Pipeline, name: str, vectors: WordVectors) -> str:
    """Returns its token. vectors: encoder -> (N, C)."""
    token = f"<{name}>"
    for encoder, rows in vectors.items():
        second = "_2" if encoder == "clip_g" else ""
        tokenizer, text_encoder = (getattr(pipeline, f"{part}{second}") for part in ("tokenizer", "text_encoder"))
        pipeline.load_textual_inversion({token: rows}, token=token, tokenizer=tokenizer, text_encoder=text_encoder)
    return token


class DiffusersBackbone(Backbone):
    """A loaded pipeline. Its modules are trained where they are and put back; the pipeline is never copied.

    device: where to train, by default CUDA if there is one. precision: `auto` computes in the dtype of the UNet's
    weights. Raises ValueError for a UNet that takes more than latents (inpainting) or a precision its weights lack.
    """

    def __init__(self, pipeline: Pipeline, device: torch.device | str | None = None, precision: Precision = "auto"):
        self.pipeline = pipeline
        self.denoiser = pipeline.unet
        self.device = chosen_device(device)
        self.family = _family(pipeline)
        self.prediction = _prediction(pipeline)
        self.compute_dtype = pipeline.unet.dtype if precision == "auto" else DTYPES[precision]
        if self.compute_dtype == torch.float32 != pipeline.unet.dtype:
            raise ValueError(
                f"precision is fp32, but the UNet's weights are {pipeline.unet.dtype}. Load it in float32."
            )
        alphas = pipeline.scheduler.alphas_cumprod.double().clamp(min=SMALLEST_ALPHA_CUMPROD)
        self.sigmas = ((1 - alphas) / alphas).sqrt().float()
        self.encoders = {"sd1": ("clip_l",), "sd2": ("clip_h",), "sdxl": ("clip_l", "clip_g")}[self.family]

    def denoise(self, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        unet = self.denoiser
        column = sigma.view(-1, 1, 1, 1)
        timestep = nearest_timestep(sigma, self.sigmas)
        inputs = (x / (column**2 + 1).sqrt()).to(unet.dtype)
        extra = None if cond.pooled is None else self._size_conditioning(x, cond.pooled)
        with self.autocast():
            output = unet(inputs, timestep, cond.context.to(unet.dtype), added_cond_kwargs=extra).sample.float()
        if self.prediction == "v":
            return x / (column**2 + 1) - output * column / (column**2 + 1).sqrt()
        return x - output * column

    def _size_conditioning(self, x: Tensor, pooled: Tensor) -> dict[str, Tensor]:
        """SDXL (arXiv 2307.01952, sec. 2.2): the images' true size, not cropped."""
        height, width = (side * self.pipeline.vae_scale_factor for side in x.shape[-2:])
        sizes = torch.tensor([height, width, 0, 0, height, width], device=x.device, dtype=pooled.dtype)
        return {"text_embeds": pooled.to(self.denoiser.dtype), "time_ids": sizes.expand(len(x), -1)}

    def encode_prompt(self, prompt: str, placeholders: Placeholders) -> Conditioning:
        with _placed(self.device, self.text_encoders()):
            outputs = [self._encode(name, prompt, placeholders) for name in self.encoders]
        context = torch.cat([context for context, _ in outputs], dim=-1)
        return Conditioning(context, outputs[-1][1] if self.family == "sdxl" else None)

    def _encode(self, name: str, prompt: str, placeholders: Placeholders) -> tuple[Tensor, Tensor]:
        _, encoder = self.tokenizer_and_encoder(name)
        ids, learned = self._tokenize(name, prompt, placeholders)
        rows = {at: placeholders[word][name][number] for at, (word, number) in learned.items()}
        with _embedding_rows(encoder, rows):
            out = encoder(ids.to(self.device), output_hidden_states=self.family == "sdxl")
        if self.family == "sdxl":  # the layer before the last, without the final norm
            return out.hidden_states[-2].float(), out[0].float()
        return out.last_hidden_state.float(), out.pooler_output

    def _tokenize(
        self, name: str, prompt: str, placeholders: Placeholders
    ) -> tuple[Tensor, dict[int, tuple[str, int]]]:
        """Token numbers (1, T), and for each position of a learned vector its placeholder and its number there."""
        tokenizer, encoder = self.tokenizer_and_encoder(name)
        counts = {placeholder: len(vectors[name]) for placeholder, vectors in placeholders.items()}
        text, words = mark_words(prompt, counts, PLACEHOLDER, tokenizer.bos_token)
        longest = encoder.config.max_position_embeddings
        ids = tokenizer(text, padding="max_length", max_length=longest, return_tensors="pt").input_ids  # (1, T)
        if ids.shape[1] > longest:
            raise too_long(prompt, ids.shape[1] - 2, longest - 2)
        marked = (ids[0] == tokenizer.bos_token_id).nonzero()[1:, 0]
        return ids, dict(zip(marked.tolist(), zip(words, vector_numbers(words, counts), strict=True), strict=True))

    def token_positions(self, prompt: str, word: str, placeholders: Placeholders) -> tuple[int, ...]:
        positions = find_tokens(*(self._content(text, placeholders) for text in (prompt, word)))
        if not positions:
            raise word_not_found(word, prompt)
        return tuple(at + 1 for at in positions)  # behind the start token

    def _content(self, text: str, placeholders: Placeholders) -> list[int | tuple[str, int]]:
        """What stands between the start token and the first end token; the encoders of a model agree on it."""
        name = self.encoders[0]
        ids, learned = self._tokenize(name, text, placeholders)
        tokens = ids[0].tolist()
        end = tokens.index(self.tokenizer_and_encoder(name)[0].eos_token_id)
        return [learned.get(at, tokens[at]) for at in range(1, end)]

    @torch.no_grad()
    def encode_image(self, image: Tensor) -> Tensor:
        vae, dtype = self.pipeline.vae, self.pipeline.vae.dtype
        overflows = dtype == torch.float16 and vae.config.force_upcast  # SDXL's does
        pixels = image.movedim(-1, 0)[None] * 2 - 1  # (1, 3, H, W) in -1..1
        try:
            if overflows:
                vae.to(torch.float32)
            with _placed(self.device, [vae]):
                mean = vae.encode(pixels.to(self.device, vae.dtype)).latent_dist.mode()
        finally:
            if overflows:
                vae.to(dtype)
        return self._scaled(mean.float())

    def _scaled(self, latents: Tensor) -> Tensor:
        """Raw VAE latents -> those the UNet was trained on."""
        config = self.pipeline.vae.config
        if getattr(config, "latents_mean", None) and getattr(config, "latents_std", None):
            mean, std = (
                torch.tensor(v).view(1, -1, 1, 1).to(latents) for v in (config.latents_mean, config.latents_std)
            )
            return (latents - mean) / std * config.scaling_factor
        return (latents - (getattr(config, "shift_factor", None) or 0.0)) * config.scaling_factor

    def word_vectors(self, word: str) -> dict[str, Tensor]:
        rows = {}
        for name in self.encoders:
            tokenizer, encoder = self.tokenizer_and_encoder(name)
            ids = tokenizer(word, add_special_tokens=False, return_tensors="pt").input_ids[0]
            if tokenizer.unk_token_id in ids.tolist():
                raise unknown_word(word)
            weight = encoder.get_input_embeddings().weight
            rows[name] = weight.detach()[ids.to(weight.device)].to("cpu", torch.float32)
        return rows

    def token_embeddings(self) -> dict[str, Tensor]:
        tables = (encoder.get_input_embeddings() for encoder in self.text_encoders())
        return {name: table.weight.detach() for name, table in zip(self.encoders, tables, strict=True)}

    def kohya_name(self, module_name: str) -> str:
        if self.family == "sdxl":  # kohya names SDXL's blocks as the original code does
            module_name = original_block_name(module_name, self.denoiser.config.layers_per_block)
        return f"lora_unet_{module_name.replace('.', '_')}"

    def checkpointed_modules(self) -> list[nn.Module]:
        kinds = ("BasicTransformerBlock", "ResnetBlock2D")
        return [m for m in self.denoiser.modules() if type(m).__name__ in kinds]

    @contextmanager
    def training(self, learn_words: bool) -> Iterator[None]:
        encoders = self.text_encoders()
        needed = [self.denoiser, *(encoders if learn_words else [])]
        idle = [self.pipeline.vae, *([] if learn_words else encoders)]
        with ExitStack() as stack:
            stack.enter_context(frozen(self.denoiser, *encoders))
            stack.enter_context(_placed(torch.device("cpu"), idle))
            stack.enter_context(_placed(self.device, needed))
            yield

    def text_encoders(self) -> list[nn.Module]:
        """In the order of `encoders`."""
        return [self.tokenizer_and_encoder(name)[1] for name in self.encoders]

    def tokenizer_and_encoder(self, name: str) -> tuple:
        """transformers' own, by a name of `encoders`."""
        if name == "clip_g":
            return self.pipeline.tokenizer_2, self.pipeline.text_encoder_2
        return self.pipeline.tokenizer, self.pipeline.text_encoder


def original_block_name(name: str, layers_per_block: int) -> str:
    """diffusers' name of an attention module -> the original code's: down_blocks.1.attentions.0 -> input_blocks.4.1."""
    if name.startswith("mid_block.attentions.0."):
        return name.replace("mid_block.attentions.0.", "middle_block.1.", 1)
    part, block, layer, rest = re.fullmatch(r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.(.*)", name).groups()
    index = int(block) * (layers_per_block + 1) + int(layer)
    return f"input_blocks.{index + 1}.1.{rest}" if part == "down" else f"output_blocks.{index}.1.{rest}"


@contextmanager
def _placed(device: torch.device, modules: list[nn.Module]) -> Iterator[None]:
    """Modules are on this device inside, and go back to where each of them was."""
    homes = [next(m.parameters()).device for m in modules]
    try:
        for module in modules:
            module.to(device)
        yield
    finally:
        for module, home in zip(modules, homes, strict=True):
            module.to(home)


@contextmanager
def _embedding_rows(encoder: nn.Module, rows: Mapping[int, Tensor]) -> Iterator[None]:
    """Put vectors (C,) in place of the token embeddings at these positions of a batch of one; differentiable."""

    def replace(_module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:  # (1, T, C)
        tokens = list(output[0].unbind())
        for position, vector in rows.items():
            tokens[position] = vector.to(output)
        return torch.stack(tokens)[None]

    handle = encoder.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def _family(pipeline: Pipeline) -> Family:
    if pipeline.unet.config.in_channels != pipeline.vae.config.latent_channels:
        raise ValueError(
            f"the UNet takes {pipeline.unet.config.in_channels} channels for latents of "
            f"{pipeline.vae.config.latent_channels}: it is an inpainting or editing model. Use a text-to-image model."
        )
    if isinstance(pipeline, StableDiffusionXLPipeline):
        if pipeline.text_encoder is None:
            raise ValueError("the SDXL refiner has one text encoder only. Train on an SDXL base model.")
        return "sdxl"
    openclip = pipeline.text_encoder.config.hidden_act == "gelu"  # OpenAI's CLIP, of SD 1.x, has quick_gelu
    return "sd2" if openclip else "sd1"


def _prediction(pipeline: Pipeline) -> str:
    kind = pipeline.scheduler.config.get("prediction_type", "epsilon")
    predictions = {"epsilon": "epsilon", "v_prediction": "v"}
    if kind not in predictions:
        raise ValueError(f"the model predicts {kind!r}; PALP trains models that predict epsilon or v_prediction.")
    return predictions[kind]

"""The rows of the matrix: each node of the pack as the host runs it, with a sampler behind it where it needs one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch

from .parts import Parts

STEPS = 2
PROMPT = "a sketch of a cat"
GIVEN = "given.safetensors"
SETTINGS = {"rank": 1, "resolution": 64}


@dataclass(frozen=True)
class Node:
    """A node on a family of models. run: parts, the root of the host's folders -> the node's outputs."""

    name: str
    family: str
    run: Callable[[Parts, Path], object]
    #: Of a training: its method, parts -> Training.
    training: Callable[[Parts], object] | None = None
    #: Of a training: the whole file, and the file of so many steps, as folder/name.
    whole: str = ""
    unfinished: str = ""
    #: Of a training: its learner in the pack, module and class.
    learner: tuple[str, str] = ("", "")
    #: Of a node that reads a file: where the test puts one, as folder/name.
    given: str = ""
    #: Whether the host writes a LoRA into the weights, and takes it out when it unloads the model.
    patches: bool = False

    @property
    def title(self) -> str:
        return f"{self.name} ({self.family})"

    @property
    def trains(self) -> bool:
        return self.training is not None

    def kept(self, steps: int) -> set[str]:
        """Name what is promised of a training that has taken so many steps."""
        if steps == 0:
            return set()
        return {self.whole if steps == STEPS else self.unfinished.format(steps)}


def _executed(node: type, **inputs) -> tuple:
    """The node's outputs, as the host calls it: in inference mode, with a node id that no page listens to."""
    node.hidden = SimpleNamespace(unique_id=None, prompt=None, extra_pnginfo=None)
    with torch.inference_mode():
        return node.execute(**inputs).args


def _photo() -> torch.Tensor:
    """A picture of colors that change from side to side, (64, 64, 3)."""
    ramp = torch.linspace(0, 1, 64)
    return torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64), 1 - ramp.expand(64, 64)], dim=-1)


def _photos_and_masks() -> dict:
    return {"images": {"image0": [_photo()[None]]}, "masks": {"mask0": [_mask()[None]]}}


def _mask() -> torch.Tensor:
    """Of the whole photo but a corner, (64, 64): with it no subject is looked for, and each call is a step's."""
    mask = torch.ones(64, 64)
    mask[:8, :8] = 0
    return mask


def _personalize(parts: Parts, _root: Path) -> tuple:
    from palp_pack.nodes.options import Options
    from palp_pack.nodes.personalize import PalpPersonalize

    widgets = {"class_word": "cat", "target_prompt": "a sketch of [V]", "steps": STEPS, "alignment_weight": 0.25}
    widgets |= {"seed": 0, "file_name": "cat"}
    lists = {name: [value] for name, value in {**parts._asdict(), **widgets, "options": Options(SETTINGS)}.items()}
    return _executed(PalpPersonalize, **lists, **_photos_and_masks())


def _personalization(parts: Parts):
    from palp_pack.nodes.host.backbone import ComfyBackbone
    from palp_pack.palp_core import Personalization, PersonalizationConfig, Subject
    from palp_pack.palp_core.training.loop import Training

    subjects = [Subject((_photo(),), "cat", masks=(_mask(),))]
    config = PersonalizationConfig(steps=STEPS, **SETTINGS)
    return Training(Personalization(ComfyBackbone(*parts), subjects, "a sketch of [V]", config))


def _learn_word(parts: Parts, root: Path, overwrite: bool = False) -> tuple:
    from palp_pack.nodes.options import Options
    from palp_pack.nodes.textual_inversion import TextualInversionTrain

    if overwrite:
        (root / "embeddings/cat.safetensors").write_bytes(b"an older word")
    widgets = {"name": "cat", "initial_word": "cat", "kind": "object", "vectors": 1, "steps": STEPS, "seed": 0}
    widgets |= {"learning_rate": 1e-3, "hold_norm": True, "regularization": 0.1, "overwrite": overwrite}
    widgets |= {"templates": "", "captions": "", "options": Options({"resolution": 64})}
    lists = {name: [value] for name, value in {**parts._asdict(), **widgets}.items()}
    return _executed(TextualInversionTrain, **lists, **_photos_and_masks())


def _word_again(parts: Parts, root: Path) -> tuple:
    return _learn_word(parts, root, overwrite=True)


def _inversion(parts: Parts):
    from palp_pack.nodes.host.backbone import ComfyBackbone
    from palp_pack.palp_core import Concept, TextualInversion, TextualInversionConfig
    from palp_pack.palp_core.training.loop import Training

    config = TextualInversionConfig(steps=STEPS, resolution=64)
    return Training(TextualInversion(ComfyBackbone(*parts), Concept((_photo(),), "cat"), config))


def _guide(parts: Parts, _root: Path) -> None:
    from palp_pack.nodes.pick_and_draw import PickAndDrawGuidance

    widgets = {"prompt": PROMPT, "subject_word": "cat", "class_word": "dog", "reference_prompt": "", "resolution": 64}
    widgets |= {"pick_weight": 1.0, "draw_weight": 1.0, "step_size": 0.5, "iterations": 1, "start_percent": 0.0}
    widgets |= {"end_percent": 1.0, "threshold": 0.4, "reference": "noise", "seed": 0}
    image = _photo()[None]
    model, conditioning = _executed(PickAndDrawGuidance, **parts._asdict(), image=image, **widgets)
    sampled(parts, model, conditioning)


def _guide_with_lora(parts: Parts, root: Path) -> None:
    """The base model's weights are put in and out in each step: in the end those with the LoRA have to be there."""
    import comfy.model_management

    patched = parts._replace(model=_with_patches(parts.model))
    comfy.model_management.load_models_gpu([patched.model], force_full_load=True)
    before = {name: weight.clone() for name, weight in parts.network.state_dict().items()}
    try:
        _guide(patched, root)
    finally:
        after = parts.network.state_dict()
        assert all(torch.equal(weight, after[name]) for name, weight in before.items()), "the LoRA is left out"


def _with_patches(model):
    """A clone with what a LoRA loader of the host puts on it."""
    patched, weights = model.clone(), model.model.state_dict()
    keys = [key for key in weights if key.endswith("attn2.to_k.weight")]
    generator = torch.Generator().manual_seed(0)
    patches = {key: ("diff", (torch.randn(weights[key].shape, generator=generator),)) for key in keys}
    patched.add_patches(patches, 1.0)
    return patched


def _record(parts: Parts, _root: Path) -> None:
    from palp_pack.nodes.attention import AttentionHeatmap, RecordAttention

    inputs = {"model": parts.model, "clip": parts.clip, "prompt": PROMPT}
    model, conditioning, recording = _executed(RecordAttention, **inputs)
    sampled(parts, model, conditioning)
    _executed(AttentionHeatmap, recording=recording, image=torch.zeros(1, 64, 64, 3), word="cat", opacity=0.5)


def _load_lora(parts: Parts, _root: Path) -> None:
    from palp_pack.nodes.load_lora import LoadPalpLora

    inputs = {"model": parts.model, "clip": parts.clip, "lora_name": GIVEN, "strength": 1.0}
    model, clip, prompt = _executed(LoadPalpLora, **inputs, step=0, word_strength=1.0)
    with torch.inference_mode():
        conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    sampled(parts, model, conditioning)


def _options(_parts: Parts, _root: Path) -> None:
    from palp_pack.nodes.options import PalpOptions

    texts = {
        "placeholder": "[V]",
        "personalization_prompt": "",
        "initial_embedding": GIVEN,
        "trigger": "",
        "retrain": False,
        "preview_every": -1,
        "preview_guidance": 0.0,
        "invert_masks": False,
        "memory": "auto",
        **{"gradient_accumulation": 1, "warmup_steps": 0, "lr_scheduler": "constant", "ema_decay": 0.0},
        **{"optimizer": "adamw", "flip": False, "masked_prior": 0.0, "targets": "attention", "hold_norm": True},
    }
    _executed(PalpOptions, score={"score": "delta"}, precision="auto", offloading=False, **texts)


def _subject(_parts: Parts, _root: Path) -> None:
    from palp_pack.nodes.subject import PalpSubject

    texts = {"placeholder": ["[V2]"], "personalization_prompt": [""], "initial_embedding": [GIVEN], "trigger": [""]}
    _executed(PalpSubject, class_word=["cat"], **texts, **_photos_and_masks())


def _load_photos(_parts: Parts, _root: Path) -> None:
    from palp_pack.nodes.photos import PalpPhotos

    _executed(PalpPhotos, folder="example: cat")


def _report(parts: Parts, _root: Path) -> None:
    from palp_pack.nodes.report import PalpReport

    width = parts.clip.cond_stage_model.clip_l.transformer.text_projection.weight.shape[0]
    seeing = SimpleNamespace(
        model_type="clip_vision_model", model=None, encode_image=lambda _: {"image_embeds": torch.ones(1, width)}
    )
    _executed(
        PalpReport,
        images=[_photo()[None]],
        prompt=[PROMPT],
        class_word=["cat"],
        clip_vision=[seeing],
        clip=[parts.clip],
    )


def _demo_world(_parts: Parts, _root: Path) -> None:
    from palp_pack.nodes.demo_world import PalpDemoWorld

    named = {"style": "sketch", "accessory": "hat", "place": "beach"}
    _executed(PalpDemoWorld, subject="cat", individual=1, photos=1, network="unet", **named)


def sampled(parts: Parts, model, conditioning) -> torch.Tensor:
    """The host's own sampling of two steps."""
    import comfy.sample

    latents = torch.zeros(1, 4, 8, 8)
    with torch.inference_mode():
        negative = parts.clip.encode_from_tokens_scheduled(parts.clip.tokenize(""))
        noise = comfy.sample.prepare_noise(latents, 0)
        how = (STEPS, 1.0, "euler", "normal", conditioning, negative, latents)
        return comfy.sample.sample(model, noise, *how, seed=0)


LORA = {
    "training": _personalization,
    "whole": "loras/cat_00001.safetensors",
    "unfinished": "loras/cat_step{}_00001.safetensors",
    "learner": ("methods.personalization_learner", "PersonalizationLearner"),
}
WORD = {
    "training": _inversion,
    "whole": "embeddings/cat.safetensors",
    "unfinished": "embeddings/cat_step{}.safetensors",
    "learner": ("methods.textual_inversion", "TextualInversionLearner"),
}
PERSONALIZE = [Node("PALP Personalize", family, _personalize, **LORA) for family in ("sd1", "sdxl", "z_image")]
LEARN_WORD = Node("Textual Inversion Train", "sd1", _learn_word, **WORD)
WORD_AGAIN = Node("Textual Inversion Train over a file", "sd1", _word_again, **WORD)
GUIDE = Node("Pick-and-Draw Guidance", "sd1", _guide)
GUIDE_WITH_LORA = Node("Pick-and-Draw Guidance with a LoRA", "sd1", _guide_with_lora, patches=True)
RECORD = Node("Record Attention and Attention Heatmap", "sd1", _record)
LOAD_LORA = Node("Load PALP LoRA", "sd1", _load_lora, given=f"loras/{GIVEN}", patches=True)
OPTIONS = Node("PALP Options", "sd1", _options, given=f"embeddings/{GIVEN}")
SUBJECT = Node("PALP Subject", "sd1", _subject, given=f"embeddings/{GIVEN}")
PHOTOS = Node("PALP Photos", "sd1", _load_photos)
REPORT = Node("PALP Report", "sd1", _report)
DEMO_WORLD = Node("PALP Demo World", "sd1", _demo_world)
SAMPLED = [GUIDE, GUIDE_WITH_LORA, RECORD, LOAD_LORA]

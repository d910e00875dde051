"""The host's CLIP, CLIP vision and DINOv2 as judges of pictures (palp_core/evaluation/judges.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...palp_core.evaluation.measuring import Judges
from .text import encoder_key

CLIP, DINO = "clip_vision_model", "dinov2"  # as the host names them
NO_CLIP = "Connect the text encoder of CLIP to clip."
NO_CLIP_VISION = "Connect a CLIP model, by Load CLIP Vision, to clip_vision."
NO_DINO = "Connect DINOv2, by Load CLIP Vision, to dino."


class HostVision(NamedTuple):
    """What the host calls CLIP_VISION."""

    vision: Any

    @torch.no_grad()
    def encode_pictures(self, pictures: Sequence[Tensor]) -> Tensor:
        """Encode pictures, (H, W, 3) in 0..1 each, into (N, D) on the CPU; of others than squares, the middle."""
        vectors = [self.vision.encode_image(picture[None])["image_embeds"] for picture in pictures]
        return torch.cat(vectors).float().cpu()


class HostClip(NamedTuple):
    """CLIP's two encoders, as the host loads them apart. encoder: clip_l, clip_g or clip_h, one of those in clip."""

    vision: Any
    clip: Any
    encoder: str

    def encode_pictures(self, pictures: Sequence[Tensor]) -> Tensor:
        """Encode pictures, (H, W, 3) in 0..1 each, into (N, D) on the CPU; of others than squares, the middle."""
        return HostVision(self.vision).encode_pictures(pictures)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode texts, in which brackets are letters, into (N, D) on the CPU."""
        return torch.cat([self._projected(t.replace("(", r"\(").replace(")", r"\)")) for t in texts]).float().cpu()

    def _projected(self, text: str) -> Tensor:
        """(1, D). What the host makes of a text to draw it lacks the projection of some encoders."""
        tokens, encoder = self.clip.tokenize(text), getattr(self.clip.cond_stage_model, self.encoder)
        self.clip.load_model(tokens)
        encoder.reset_clip_options()
        encoder.set_clip_options({"projected_pooled": True, "execution_device": self.clip.patcher.load_device})
        try:
            return encoder.encode_token_weights(tokens[encoder_key(self.encoder)])[1]
        finally:
            encoder.reset_clip_options()


def judges_of(clip_vision: Any | None, dino: Any | None, clip: Any | None) -> tuple[Judges, Mapping[str, str]]:
    """Return the judges that are connected, and for each axis that lacks one, what to connect."""
    missing = {}
    encoder = None if clip is None or clip_vision is None else _encoder_for(clip_vision, clip)
    if not _is(clip_vision, CLIP):
        missing["clip_t"] = missing["clip_i"] = NO_CLIP_VISION
    elif encoder is None:
        missing["clip_t"] = NO_CLIP
    if not _is(dino, DINO):
        missing["dino"] = missing["diversity"] = NO_DINO
    seeing = HostClip(clip_vision, clip, encoder) if encoder else HostVision(clip_vision)
    return Judges(None if "clip_i" in missing else seeing, None if "dino" in missing else HostVision(dino)), missing


def _encoder_for(clip_vision: Any, clip: Any) -> str | None:
    """Choose CLIP's text encoder that writes as many numbers as the pictures', else any; None where there is none."""
    layers = {
        name: getattr(clip.cond_stage_model, name).transformer.text_projection
        for name in ("clip_l", "clip_g", "clip_h")
        if hasattr(clip.cond_stage_model, name)
    }
    width = getattr(getattr(clip_vision.model, "visual_projection", None), "out_features", None)
    fitting = [name for name, layer in layers.items() if layer.out_features == width]
    return next(iter([*fitting, *layers]), None)


def _is(vision: Any | None, kind: str) -> bool:
    return getattr(vision, "model_type", None) == kind

"""Record Attention and Attention Heatmap: what each word of a prompt attends to while the stock samplers work."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..palp_core.methods.heatmap import overlay, word_heat, word_share
from ..palp_core.models.prompts import check_prompt
from .host.attention_recording import AttentionRecording, recorded_model
from .host.progress import show_text
from .host.reader import PromptReader
from .host.text import spelled_out
from .widgets import CATEGORY

Recording = io.Custom("PALP_ATTENTION")


class RecordAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PALP_RecordAttention",
            display_name="Record Attention",
            category=CATEGORY,
            description=(
                "Records, while a sampler works, where in the picture each word of the prompt gets its attention. "
                "Attention Heatmap shows it. The picture is the same as without."
            ),
            search_aliases=["daam", "attention map", "cross attention", "heatmap", "palp"],
            inputs=[
                io.Model.Input("model", tooltip="Takes Stable Diffusion 1.x, 2.x or SDXL. It is left as it was."),
                io.Clip.Input("clip", tooltip="Takes the CLIP of the same checkpoint, or of Load PALP LoRA."),
                io.String.Input(
                    "prompt",
                    default="a sketch of a cat in Paris at night",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="Is the prompt to sample with; its words are recorded.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="Goes to one KSampler, whose latest run is recorded."),
                io.Conditioning.Output(
                    display_name="conditioning", tooltip="Is the encoded prompt, for the KSampler's positive input."
                ),
                Recording.Output(display_name="recording", tooltip="Goes to Attention Heatmap, one for each word."),
            ],
        )

    @classmethod
    def execute(cls, model, clip, prompt):
        check_prompt("prompt", prompt)
        reader = PromptReader(model, clip)
        prompt = spelled_out(clip.tokenizer, prompt)
        conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        contexts = [context for context, _ in conditioning]
        recording = AttentionRecording(reader, prompt, contexts, reader.joint)
        return io.NodeOutput(recorded_model(model, recording), conditioning, recording)


class AttentionHeatmap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PALP_AttentionHeatmap",
            display_name="Attention Heatmap",
            category=CATEGORY,
            description=(
                "Shows where in a picture a word of its prompt got its attention (DAAM), as colors over the picture "
                "and as a mask: whether a learned word has swallowed the rest of the prompt, for example."
            ),
            search_aliases=["daam", "attention map", "cross attention", "word mask", "palp"],
            is_output_node=True,
            inputs=[
                Recording.Input("recording", tooltip="Takes what Record Attention has recorded."),
                io.Image.Input("image", tooltip="Takes the decoded pictures that were sampled with the recording."),
                io.String.Input(
                    "word",
                    default="cat",
                    tooltip="Names a word of the prompt, or several in a row; a learned one is embedding:NAME, or [V].",
                ),
                io.Float.Input(
                    "opacity",
                    default=0.6,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Sets how much the colors cover: 0 shows the picture alone, 1 the heat alone.",
                ),
                io.String.Input(
                    "against",
                    default="",
                    tooltip="Shows where the word wins against other words of the prompt, with commas between them; "
                    "empty shows the word by itself. Use it for backgrounds.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="overlay", tooltip="Shows the picture with the word's heat over it."),
                io.Mask.Output(
                    display_name="mask", tooltip="Is white at the word's hottest place and black at its coldest."
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, recording, image, word, opacity, against=""):
        tokens, maps = recording.positions(word), recording.maps(image)
        others = [token for other in against.split(",") if other.strip() for token in recording.positions(other)]
        heat = word_heat(maps, tokens, tuple(image.shape[1:3]), sorted(set(others) - set(tokens)))
        picture = overlay(image, heat, opacity)
        share = word_share(maps, tokens).mean().item()
        show_text(cls.hidden.unique_id, f"{word.strip()}: {share:.0%} of the attention that the prompt's words get")
        return io.NodeOutput(picture, heat, ui=ui.PreviewImage(picture, cls=cls))

"""PALP Subject: one more subject for PALP Personalize."""

from __future__ import annotations

from comfy_api.latest import io

from .widgets import (
    CATEGORY,
    NO_EMBEDDING,
    Subjects,
    class_word_input,
    images_input,
    initial_embedding_input,
    initial_embedding_time,
    make_subject,
    masks_input,
    personalization_prompt_input,
)


class PalpSubject(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PALP_Subject",
            display_name="PALP Subject",
            category=CATEGORY,
            description=(
                "One more subject for PALP Personalize, with photos and a placeholder of its own, such as [V2]. "
                "Connect one PALP Subject to the next to have several. An artwork is a subject too: class word "
                '"painting", personalization prompt "an oil painting of [V2]".'
            ),
            search_aliases=["palp", "multi subject", "second subject", "concept"],
            is_input_list=True,
            inputs=[
                images_input(),
                class_word_input("dog"),
                io.String.Input(
                    "placeholder",
                    default="[V2]",
                    tooltip="The subject's name in prompts, in square brackets. Each subject needs its own.",
                ),
                personalization_prompt_input(),
                masks_input(),
                Subjects.Input("subjects", optional=True, tooltip="Further subjects, from another PALP Subject."),
                initial_embedding_input("class word"),
            ],
            outputs=[
                Subjects.Output(display_name="subjects", tooltip="For PALP Personalize, or one more PALP Subject.")
            ],
        )

    @classmethod
    def execute(
        cls,
        images,
        class_word,
        placeholder,
        personalization_prompt,
        masks=None,
        subjects=None,
        initial_embedding=(NO_EMBEDDING,),
    ):
        subject = make_subject(
            images, class_word[0], placeholder[0], personalization_prompt[0], masks, initial_embedding[0]
        )
        return io.NodeOutput([*(subjects[0] if subjects else []), subject])

    @classmethod
    def fingerprint_inputs(cls, **inputs):
        """Run again when the initial embedding has been replaced."""
        return initial_embedding_time(inputs)

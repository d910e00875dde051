"""PALP Subject: one more subject for PALP Personalize."""

from __future__ import annotations

from comfy_api.latest import io

from .widgets import (
    CATEGORY,
    Subjects,
    captions_input,
    class_word_input,
    images_input,
    initial_embedding_input,
    initial_embedding_time,
    load_initial_embedding,
    make_subject,
    masks_input,
    personalization_prompt_input,
    placeholder_input,
    trigger_input,
)


class PalpSubject(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PALP_Subject",
            display_name="PALP Subject",
            category=CATEGORY,
            description=(
                "Adds a subject to PALP Personalize, with photos and a placeholder of its own, such as [V2]. "
                "Connect one PALP Subject to the next to have several. An artwork is a subject too: class word "
                '"painting", personalization prompt "an oil painting of [V2]".'
            ),
            search_aliases=["palp", "multi subject", "second subject", "concept"],
            is_input_list=True,
            inputs=[
                images_input(),
                class_word_input("dog"),
                placeholder_input("[V2]"),
                personalization_prompt_input(),
                initial_embedding_input(),
                masks_input(),
                Subjects.Input("subjects", optional=True, tooltip="Takes further subjects, from another PALP Subject."),
                trigger_input(),
                captions_input(),
            ],
            outputs=[
                Subjects.Output(
                    display_name="subjects", tooltip="Goes to PALP Personalize, or to one more PALP Subject."
                )
            ],
        )

    @classmethod
    def execute(cls, images, masks=None, subjects=None, captions=None, **widgets):
        widgets = {name: value[0] for name, value in widgets.items()}
        widgets["initial_embedding"] = load_initial_embedding(widgets["initial_embedding"])
        subject = make_subject(images, masks, captions=captions, **widgets)
        return io.NodeOutput([*(subjects[0] if subjects else []), subject])

    @classmethod
    def fingerprint_inputs(cls, initial_embedding=None, **_inputs):
        """Run again when the initial embedding has been replaced."""
        return initial_embedding_time(initial_embedding and initial_embedding[0])

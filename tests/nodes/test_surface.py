"""What users' workflows depend on: it is written down here, and a change of it is a decision."""

from __future__ import annotations

import pytest

from devtools.comfy_server import ComfyServer

pytestmark = pytest.mark.host

#: Node id -> its inputs in the order in which workflows store them.
NODES = {
    "PALP_Personalize": "model clip vae images class_word target_prompt steps alignment_weight seed file_name "
    "masks subjects options captions",
    "PALP_Options": "score learning_rate embedding_learning_rate rank batch_size resolution gradient_checkpointing "
    "subject_word precision offloading placeholder personalization_prompt clean_prompt initial_embedding trigger "
    "retrain preview_every preview_guidance invert_masks memory "
    "gradient_accumulation warmup_steps lr_scheduler ema_decay optimizer flip masked_prior targets hold_norm",
    "PALP_Photos": "folder",
    "PALP_Subject": "images class_word placeholder personalization_prompt initial_embedding trigger masks subjects "
    "captions",
    "PALP_LoadLora": "model clip lora_name strength step word_strength",
    "PALP_DemoWorld": "subject individual style accessory place photos network",
    "PALP_TextualInversionTrain": "model clip vae images name initial_word kind vectors steps learning_rate hold_norm "
    "regularization seed overwrite templates captions masks options",
    "PALP_PickAndDraw": "model clip vae image prompt subject_word class_word pick_weight draw_weight step_size "
    "iterations start_percent end_percent threshold reference reference_prompt resolution seed base_model mask",
    "PALP_RecordAttention": "model clip prompt",
    "PALP_AttentionHeatmap": "recording image word opacity against",
    "PALP_Report": "images prompt class_word reference_photos clip_vision clip dino",
}
SCORES = {"delta": ["push", "interval", "null_prior"], "palp": ["alpha", "beta"]}


def test_nodes_have_their_ids_and_inputs_in_this_order(server: ComfyServer):
    found = {name: node for name, node in server.object_info().items() if name.startswith("PALP_")}
    inputs = {
        name: [*node["input_order"]["required"], *node["input_order"].get("optional", [])]
        for name, node in found.items()
    }
    assert inputs == {name: text.split() for name, text in NODES.items()}
    (_, score) = found["PALP_Options"]["input"]["required"]["score"]
    assert {o["key"]: list(o["inputs"]["required"]) for o in score["options"]} == SCORES

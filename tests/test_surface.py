"""What users' workflows, scripts and files depend on: it is written down here, and a change of it is a decision."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from devtools.random_models import pictures, tiny_pipeline
from palp_core import (
    Concept,
    Personalization,
    PersonalizationConfig,
    Subject,
    TextualInversion,
    TextualInversionConfig,
    Training,
    load_lora_file,
    save_run,
    save_word,
)
from palp_core.cli.main import main
from palp_core.files.embedding_file import described_word
from palp_core.models.diffusers.backbone import DiffusersBackbone

REPO = Path(__file__).parents[1]

SHARED = "model images masks invert-masks initial-embedding out retrain device precision steps batch-size resolution "
SHARED += "gradient-checkpointing gradient-accumulation warmup-steps lr-scheduler ema-decay optimizer flip "
SHARED += "max-grad-norm seed learning-rate preview-every preview-guidance memory"
OPTIONS = {
    "demo": "out subject target-prompts seed network steps json",
    "train": f"{SHARED} captions class-word target-prompt personalization-prompt trigger file-name "
    "embedding-learning-rate rank targets subject-word clean-prompt masked-prior hold-norm alignment-weight noise "
    "rescale score push interval null-prior alpha beta negative-prompt",
    "learn-word": f"{SHARED} initial-word kind templates captions name overwrite vectors hold-norm regularization",
    "generate": "model prompt negative-prompt count out seed steps guidance-scale size device",
    "evaluate": "photos class-word prompt clip dino out device json",
    "sweep": "out paper model photos clip dino set ray num-cpus num-gpus workers state-seconds keep-states dry-run "
    "device json",
    "info": "json",
}

MODEL_SPEC = {
    f"modelspec.{name}"
    for name in "sai_model_spec architecture implementation title description date resolution prediction_type "
    "trigger_phrase usage_hint".split()
}
KOHYA = {
    f"ss_{name}"
    for name in "output_name network_module network_dim network_alpha base_model_version v2 steps max_train_steps seed "
    "learning_rate batch_size_per_device resolution num_train_images tag_frequency training_finished_at "
    "training_comment".split()
}
TRAINING = {"steps", "batch_size", "resolution", "gradient_checkpointing", "max_grad_norm", "seed", "learning_rate"}
TRAINING |= {"gradient_accumulation", "warmup_steps", "lr_scheduler", "ema_decay", "optimizer", "flip"}


@pytest.mark.parametrize("command", OPTIONS)
def test_commands_have_these_options(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["palp", command, "--help"])
    with pytest.raises(SystemExit):
        main()
    shown = capsys.readouterr().out
    described = set(re.findall(r"^\W*(?:-h, )?--([a-z][a-z-]*)", shown, re.MULTILINE)) - {"help"}
    assert described == set(OPTIONS[command].split())


def keys(path: Path) -> set[str]:
    with safe_open(path, "pt") as file:
        return set(file.metadata())


def test_files_have_these_keys(tmp_path):
    backbone = DiffusersBackbone(tiny_pipeline("sd1", tmp_path), "cpu")
    config = PersonalizationConfig(steps=1, resolution=64, rank=2)
    run = Training(Personalization(backbone, [Subject(pictures((64, 64)), "cat")], "a sketch of [V]", config))
    list(run.steps())
    path = save_run(run, tmp_path, "cat")
    assert keys(path) == {"format", "palp", "palp_sha256", "trained_words"} | MODEL_SPEC | KOHYA
    more = save_run(run, tmp_path, "cat", lambda content, title: {"workflow": f"{title} of {content.info.family}"})
    assert keys(more) == keys(path) | {"workflow"}  # what the node adds, so that the page opens a file
    info = load_lora_file(more).info
    described = "version family prediction rank alpha target_prompt clean_prompt prompt steps subjects settings"
    assert set(vars(info)) == {*described.split(), "identity"}
    subject = "placeholder class_word embedding personalization_prompt images text".split()
    assert set(vars(info.subjects[0])) == set(subject)
    own = {"embedding_learning_rate", "rank", "targets", "subject_word", "clean_prompt", "masked_prior", "alignment"}
    own |= {"hold_norm"}
    assert set(info.settings) == TRAINING | own
    assert set(info.settings["alignment"]) == {"weight", "score", "noise", "rescale"}

    word = Training(
        TextualInversion(backbone, Concept(pictures((64, 64)), "c"), TextualInversionConfig(steps=1, resolution=64))
    )
    list(word.steps())
    path = save_word(word, tmp_path, "word")
    assert keys(path) == {"format", "palp_embedding", "palp_sha256"} | MODEL_SPEC
    found = described_word(path)
    assert set(found) == set(
        "version family prediction initial_word initial_embedding kind vectors images steps settings".split()
    )
    assert set(found["settings"]) == TRAINING | {"vectors", "hold_norm", "regularization"}


# --- the arrows between the rooms that import-linter does not see ---


def imports(path: Path) -> list[tuple[str, list[str]]]:
    """Module as it is written, and names, of each `from` import of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return [("." * node.level + (node.module or ""), [alias.name for alias in node.names]) for node in found]


def test_the_library_on_comfyui_knows_no_node():
    for path in (REPO / "nodes/host").glob("*.py"):
        for module, _ in imports(path):
            assert not re.match(r"\.\.(?!\.)", module), f"{path.name} imports {module}"


def test_nobody_imports_a_private_name():
    for folder in ("nodes", "palp_core", "benchmarks", "devtools"):
        for path in (REPO / folder).rglob("*.py"):
            for module, names in imports(path):
                if module.startswith((".", "palp_core", "devtools")):
                    assert not [n for n in names if n.startswith("_") and not n.startswith("__")], f"{path}: {module}"


def test_nothing_that_is_shipped_imports_what_is_not():
    for folder in ("nodes", "palp_core"):
        for path in (REPO / folder).rglob("*.py"):
            for module, _ in imports(path):
                assert not re.search(r"(^|\.)(devtools|benchmarks|tests)\b", module), f"{path}: {module}"

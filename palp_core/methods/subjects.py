"""Subjects: what each placeholder of a target prompt stands for, and where its word starts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..errors import PromptError
from ..files.embedding_file import Embedding, fitting_vectors
from ..models.backbone import Backbone
from ..models.prompts import check_known, check_placeholder, find_placeholders, substitute
from ..training.data import check_images_and_masks


@dataclass(frozen=True)
class Subject:
    """What one placeholder stands for."""

    #: Photos, each (H, W, 3) in 0..1; sizes may differ.
    images: tuple[Tensor, ...]
    #: The word for what it is, which the model knows: "cat". Its embedding is where the learned one starts.
    class_word: str
    #: Its name in prompts, in square brackets.
    placeholder: str = "[V]"
    #: y_P, the neutral prompt under which it is learned; empty for "a photo of" the placeholder.
    personalization_prompt: str = ""
    #: For each image a mask (H, W) in 0..1, white where the subject is; empty where all of each image counts.
    masks: tuple[Tensor, ...] = ()
    #: A word learned before, to start from in place of the class word's embedding.
    initial_embedding: Embedding | None = None

    def __post_init__(self) -> None:
        check_placeholder(self.placeholder)
        if not self.class_word.strip():
            raise PromptError(f"class_word of {self.placeholder} is empty. Say what the subject is, for example: cat.")
        if find_placeholders(self.class_word):
            raise PromptError(f"class_word {self.class_word!r} holds a placeholder. Use a word the model knows.")
        images, masks = check_images_and_masks(self.placeholder, self.images, self.masks)
        if not self.personalization_prompt.strip():
            object.__setattr__(self, "personalization_prompt", f"a photo of {self.placeholder}")
        if self.placeholder not in find_placeholders(self.personalization_prompt):
            raise PromptError(
                f"personalization_prompt {self.personalization_prompt!r} does not name its subject {self.placeholder}. "
                f'Write for example "a photo of {self.placeholder}".'
            )
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "masks", masks)


def check_subjects(subjects: list[Subject], target_prompt: str) -> None:
    """Raise PromptError where subjects and target prompt do not fit together; needs no model."""
    names = [subject.placeholder for subject in subjects]
    if not names:
        raise PromptError("there are no subjects. Give one, with its photos.")
    for name in names:
        if names.count(name) > 1:
            raise PromptError(f"placeholder {name} belongs to two subjects. Give each its own, such as [V] and [V2].")
    if not find_placeholders(target_prompt):
        raise PromptError(
            f"target_prompt {target_prompt!r} has no placeholder. Name the subject in it, for example "
            f'"a sketch of {names[0]} in Paris".'
        )
    check_known("target_prompt", target_prompt, names)
    for subject in subjects:
        check_known(f"personalization_prompt of {subject.placeholder}", subject.personalization_prompt, names)
        if subject.placeholder not in find_placeholders(target_prompt):
            raise PromptError(
                f"target_prompt {target_prompt!r} does not name the subject {subject.placeholder}. Put it into the "
                "prompt, or remove the subject."
            )


def with_class_words(prompt: str, subjects: list[Subject]) -> str:
    """Replace each placeholder of a prompt by its subject's class word."""
    return substitute(prompt, {subject.placeholder: subject.class_word.strip() for subject in subjects})


def initial_vectors(backbone: Backbone, subject: Subject) -> dict[str, Tensor]:
    """Return where a subject's word starts: its embedding learned before, else its class word. Encoder -> (N, C)."""
    if subject.initial_embedding is not None:
        return fitting_vectors(subject.initial_embedding, backbone)
    return initial_vector(backbone, subject.class_word.strip())


def initial_vector(backbone: Backbone, class_word: str) -> dict[str, Tensor]:
    """Average the token embeddings of a class word, at their mean norm. Encoder -> (1, C)."""
    start = {}
    for encoder, rows in backbone.word_vectors(class_word).items():
        mean = rows.mean(dim=0, keepdim=True)
        start[encoder] = mean * (rows.norm(dim=-1).mean() / mean.norm())
    return start

"""Subjects: what each placeholder of a target prompt stands for, and where its word starts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import InitVar, dataclass, field

from torch import Tensor

from ..errors import PromptError, quoted
from ..files.checks import MOST_VECTORS
from ..files.embedding_file import Embedding, fitting_vectors
from ..files.lora_file import MOST_SUBJECTS
from ..models.backbone import Backbone
from ..models.prompts import check_known, check_placeholder, check_prompt, check_weights, find_placeholders
from ..models.wording import naming, put_class_words, without_article
from ..training.data import check_images_and_masks
from .artworks import artworks_in, in_medium, medium_of, without_artworks

#: Texts that mean nothing to a model; the first is what most trainers take.
TRIGGERS = ("ohwx", "zxcq", "vbnk", "wqpr", "jxdz", "kfqy", "mzvw", "xhqj")


@dataclass(frozen=True)
class Subject:
    """What one placeholder stands for."""

    #: Photos, each (H, W, 3) in 0..1; sizes may differ. Of (H, W, 4) the alpha is the mask, where none is given.
    images: tuple[Tensor, ...]
    #: The word for what it is, which the model knows: "cat". Its embedding is where the learned one starts.
    class_word: str
    #: Its name in prompts, in square brackets.
    placeholder: str = "[V]"
    #: y_P, the neutral prompt under which it is learned; empty for "a photo of" the placeholder.
    personalization_prompt: str = ""
    #: For each image a mask (H, W) in 0..1, white where the subject is, or None; empty where all of each image counts.
    masks: tuple[Tensor | None, ...] = ()
    #: A word learned before, to start from in place of the class word's embedding.
    initial_embedding: Embedding | None = None
    #: A rare text that stands before the class word where no word is learned; empty for one of TRIGGERS.
    trigger: str = ""
    #: Whether the masks that are given are black where the subject is; an image's alpha never is.
    invert_masks: InitVar[bool] = False
    #: For each image y_P of its own, which says what else it shows, or an empty text; empty where they have none. What
    #: does not name the placeholder is taken to mean the class word.
    captions: tuple[str, ...] = ()
    #: What is to be said of it to whoever made it, in sentences, which are logged.
    notes: tuple[str, ...] = field(default=(), init=False, compare=False)

    def __post_init__(self, invert_masks: bool) -> None:
        check_placeholder(self.placeholder)
        check_class_word(self.class_word, f"class_word of {self.placeholder}")
        article = self._left_out_article()
        checked = check_images_and_masks(self.placeholder, self.images, self.masks, invert_masks)
        if not self.personalization_prompt.strip():
            object.__setattr__(self, "personalization_prompt", f"a photo of {self.placeholder}")
        check_weights(f"personalization_prompt of {self.placeholder}", self.personalization_prompt, [self.placeholder])
        if self.placeholder not in find_placeholders(self.personalization_prompt):
            raise PromptError(
                f"personalization_prompt {quoted(self.personalization_prompt)} does not name its subject "
                f'{self.placeholder}. Write for example "a photo of {self.placeholder}".'
            )
        for name, value in checked._asdict().items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "notes", article + checked.notes)
        object.__setattr__(self, "captions", self._read_captions())

    def _read_captions(self) -> tuple[str, ...]:
        """Write captions as prompts that name the placeholder; empty where no image has one. Raises PromptError."""
        if self.captions and len(self.captions) != len(self.images):
            raise PromptError(
                f"captions: {self.placeholder} has {len(self.images)} images but {len(self.captions)} captions. Give "
                "one for each image, which may be empty, or none."
            )
        if not any(map(str.strip, self.captions)):
            return ()
        word = self.class_word.strip()
        read = [naming(c, self.placeholder, word) if c.strip() else self.personalization_prompt for c in self.captions]
        for caption in read:
            check_prompt(f"captions of {self.placeholder}", caption)
        return tuple(read)

    @property
    def photo_prompts(self) -> tuple[str, ...]:
        """Return y_P of each image."""
        return self.captions or (self.personalization_prompt,) * len(self.images)

    @property
    def medium(self) -> str:
        """Say what it is where it is an artwork: an oil painting."""
        return medium_of(self.personalization_prompt, self.placeholder, self.class_word.strip())

    @property
    def unmasked(self) -> tuple[int, ...]:
        """Number the images that no mask leaves anything out of."""
        return tuple(n for n in range(len(self.images)) if not self.masks or self.masks[n].min() >= 1)

    def _left_out_article(self) -> tuple[str, ...]:
        """Leave out the article of the class word; returns what is to be said of it."""
        word, note = named_without_article(f"class_word of {self.placeholder}", self.class_word)
        object.__setattr__(self, "class_word", word)
        return note


def check_class_word(class_word: str, name: str = "class_word") -> None:
    """Raise PromptError for a word, called `name`, that cannot say what a subject is."""
    check_prompt(name, class_word)
    if not class_word.strip():
        raise PromptError(f"{name} is empty. Say what the subject is, for example: cat.")
    if find_placeholders(class_word):
        raise PromptError(f"class_word {quoted(class_word)} holds a placeholder. Use a word the model knows.")


def check_target_prompt(target_prompt: str, example: str = "[V]") -> None:
    """Raise PromptError for a prompt that no text encoder can read, or that names no subject at all."""
    check_prompt("target_prompt", target_prompt)
    if not find_placeholders(target_prompt):
        raise PromptError(
            f"target_prompt {quoted(target_prompt)} has no placeholder. Name the subject in it, for example "
            f'"a sketch of {example} in Paris".'
        )


def named_without_article(name: str, word: str) -> tuple[str, tuple[str, ...]]:
    """Return a word called `name` without its article, and what is to be said of it, which is logged."""
    if (bare := without_article(word)) == word:
        return word, ()
    note = f"{name} is {quoted(word)}, and is read as {quoted(bare)}: an article stands in prompts, before [V]."
    logging.warning(note)
    return bare, (note,)


def check_subjects(subjects: list[Subject], target_prompt: str) -> None:
    """Raise PromptError where subjects and target prompt do not fit together; needs no model."""
    names = [subject.placeholder for subject in subjects]
    if not 1 <= len(names) <= MOST_SUBJECTS:
        raise PromptError(f"there are {len(names)} subjects; there can be 1 to {MOST_SUBJECTS}.")
    for name in names:
        if names.count(name) > 1:
            raise PromptError(f"placeholder {name} belongs to two subjects. Give each its own, such as [V] and [V2].")
    for what, text in _texts(subjects, target_prompt):
        check_prompt(what, text)
    check_weights("target_prompt", target_prompt, names)
    check_target_prompt(target_prompt, names[0])
    check_known("target_prompt", target_prompt, names)
    for subject in subjects:
        check_known(f"personalization_prompt of {subject.placeholder}", subject.personalization_prompt, names)
        for caption in subject.captions:
            check_known(f"captions of {subject.placeholder}", caption, names)
        if subject.placeholder not in find_placeholders(target_prompt):
            raise PromptError(
                f"target_prompt {quoted(target_prompt)} does not name the subject {subject.placeholder}. Put it into "
                "the prompt, or remove the subject."
            )


def _texts(subjects: list[Subject], target_prompt: str) -> Iterator[tuple[str, str]]:
    """What a user has written, each with its name."""
    yield "target_prompt", target_prompt
    for subject in subjects:
        for name in ("class_word", "personalization_prompt", "trigger"):
            yield f"{name} of {subject.placeholder}", getattr(subject, name)


def trigger_texts(subjects: list[Subject]) -> dict[str, str]:
    """Say what stands for each subject where no word is learned: placeholder -> "ohwx cat".

    Raises PromptError where two subjects have the same, or there are more than there are rare texts.
    """
    given = {subject.trigger.strip() for subject in subjects}
    rare = iter([trigger for trigger in TRIGGERS if trigger not in given])
    texts = {s.placeholder: f"{s.trigger.strip() or next(rare, '')} {s.class_word.strip()}" for s in subjects}
    for placeholder, text in texts.items():
        if list(texts.values()).count(text) > 1 or text.startswith(" "):
            raise PromptError(f"trigger of {placeholder} is missing, or another subject's. Give each subject its own.")
        if find_placeholders(text):
            raise PromptError(
                f"trigger of {placeholder} holds square brackets. Use a rare word, such as {TRIGGERS[0]}."
            )
    return texts


def with_class_words(prompt: str, subjects: list[Subject]) -> str:
    """Replace each placeholder of a prompt by its subject's class word: of [V] and of a [V] cat -> of a cat."""
    return put_class_words(prompt, {subject.placeholder: subject.class_word.strip() for subject in subjects})


def artworks_among(subjects: list[Subject], target_prompt: str) -> list[Subject]:
    """Choose the subjects that are artworks: how the picture is made, and not what it shows."""
    return [subject for subject in subjects if subject.placeholder in artworks_in(target_prompt)]


def clean_prompt_of(target_prompt: str, subjects: list[Subject]) -> str:
    """Describe the scene of the target prompt for the base model: in class words, and in an artwork's medium."""
    artworks = artworks_among(subjects, target_prompt)
    if not artworks:
        return with_class_words(target_prompt, subjects)
    return in_medium(with_class_words(without_artworks(target_prompt), subjects), artworks[0].medium)


def initial_vectors(backbone: Backbone, subject: Subject) -> dict[str, Tensor]:
    """Return where a subject's word starts: its embedding learned before, else its class word. Encoder -> (N, C).

    A class word of several tokens gives a vector for each, so that [V] says at first exactly what the class word says.
    Raises PromptError for one of more tokens than a file may hold.
    """
    if subject.initial_embedding is not None:
        return fitting_vectors(subject.initial_embedding, backbone)
    start = backbone.word_vectors(subject.class_word.strip())
    if (most := max(map(len, start.values()))) > MOST_VECTORS:
        raise PromptError(
            f"class_word {quoted(subject.class_word)} is {most} tokens to the text encoder, and may be {MOST_VECTORS}. "
            "Say in a word or two what the subject is."
        )
    return start


def mean_vectors(tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Average the token embeddings of a word, encoder -> (N, C), at their mean norm. Encoder -> (1, C)."""
    start = {}
    for encoder, rows in tokens.items():
        mean = rows.mean(dim=0, keepdim=True)
        start[encoder] = mean * (rows.norm(dim=-1).mean() / mean.norm())
    return start

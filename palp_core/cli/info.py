"""`palp info`: what a trained file is, and how to use it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from unicodedata import category

import tyro

from ..errors import FileError
from ..files.embedding_file import described_word, load_embedding
from ..files.lora_file import LoraFile, load_lora_file
from .output import show


@dataclass(frozen=True)
class Info:
    """Say what a trained file, or a learned word, is and how to use it."""

    #: Reads this trained file, or this learned word (.safetensors).
    file: tyro.conf.Positional[Path]
    #: Prints everything, as JSON.
    json: bool = False

    def run(self) -> None:
        if self.file.is_dir():
            raise FileError(f"{self.file} is a folder. Name the file in it.")
        if (word := described_word(self.file)) is not None:
            load_embedding(self.file)  # raises where the word itself cannot be used
            show(_printable(_word_text(self.file, word)), word, self.json)
        else:
            trained = load_lora_file(self.file)
            show(_printable(_lora_text(self.file, trained)), asdict(trained.info), self.json)


def _printable(text: str) -> str:
    """Spell out what a terminal would obey: what a file says may come from anyone."""
    return "".join(ascii(letter)[1:-1] if category(letter) == "Cc" and letter != "\n" else letter for letter in text)


def _lora_text(path: Path, trained: LoraFile) -> str:
    info = trained.info
    lines = [
        f"{path.name}: PALP {info.version}, for {info.family} ({info.prediction} prediction)",
        f"trained for     {info.target_prompt}",
        f"kept meaning    {info.clean_prompt}",
    ]
    for subject in info.subjects:
        word = trained.words.get(subject.embedding, {})  # none where a text stands for it
        known = ", ".join(f"{e} {tuple(v.shape)}" for e, v in word.items()) or subject.text
        lines.append(f"{subject.placeholder:15} a {subject.class_word} from {subject.images} photos; word: {known}")
    lines.append(f"LoRA            {trained.projections} projections, rank {info.rank}, {info.steps} steps")
    lines.append(f"in ComfyUI      Load PALP LoRA, then: {info.prompt}")
    return "\n".join(lines)


def _word_text(path: Path, word: dict) -> str:
    start = word["initial_word"] or word["initial_embedding"]
    lines = [
        f"{path.name}: a word by PALP {word['version']}, for {word['family']}",
        f"learned from    {word['images']} images of a kind of {word['kind']}, starting at {start!r}",
        f"vectors         {word['vectors']}, {word['steps']} steps",
        f"in ComfyUI      in models/embeddings: embedding:{path.stem}",
    ]
    return "\n".join(lines)

"""`palp evaluate`: how well pictures keep their prompts and their subject, and how different they are."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro
from tqdm import tqdm

from ..errors import SettingError
from ..files.safetensors_file import first_writable_folder
from .output import show


@dataclass(frozen=True)
class Evaluate:
    """Measure a folder of pictures: text alignment, subject alignment and diversity, as a table and as a page.

    Prompts are in a prompt.txt beside the pictures, in folders METHOD/PROMPT or METHOD/SUBJECT/PROMPT, or in
    pictures.csv with the columns file, prompt, subject and method. Nothing is downloaded.
    """

    #: Measures the pictures in this folder.
    folder: tyro.conf.Positional[Path]
    #: Takes the subject's photos from this folder, or from a folder for each subject in it.
    photos: Path | None = None
    #: Says what the subject is; CLIP reads it in the place of [V] or embedding:NAME. For several subjects,
    #: class_words.csv among their folders has the columns subject and class_word; DreamBench's own list serves, too.
    class_word: str = ""
    #: Says what pictures in the folder itself were drawn for, where no prompt.txt does.
    prompt: str = ""
    #: Loads CLIP from this folder, for text alignment (CLIP-T) and subject alignment (CLIP-I).
    clip: Path | None = None
    #: Loads DINOv2 from this folder, for subject alignment (DINO) and diversity.
    dino: Path | None = None
    #: Writes figures.csv, by_picture.csv and report.html into this folder.
    out: Path = Path("evaluation")
    #: Computes there: cuda, cpu or mps; none takes CUDA if there is one.
    device: str | None = None
    #: Prints the figures as JSON in place of the table.
    json: bool = False

    def run(self) -> None:
        from ..evaluation.layout import read_layout
        from ..evaluation.measuring import cell_texts, evaluate
        from ..evaluation.references import find_references
        from ..evaluation.report import write_report
        from ..evaluation.table import as_json, as_table

        shown = read_layout(self.folder, self.prompt)
        references = find_references(self.photos, (one.subject for one in shown), self.class_word)
        if self.clip:
            cell_texts(shown, references)  # raises for a prompt that CLIP could not read, before anything is loaded
        judges = self._judges()
        out = first_writable_folder([self.out])
        evaluation = evaluate(shown, references, judges, partial(tqdm, unit="batch"))
        report = write_report(evaluation, out, f"Evaluation of {self.folder.resolve().name}")
        for note in evaluation.notes:
            print(f"palp: {note}", file=sys.stderr)
        where = f"{report} shows the pictures; beside it are the figures as tables."
        show(f"{as_table(evaluation)}\n{where}", as_json(evaluation), self.json)

    def _judges(self):
        """Those whose folders are given. Raises SettingError where none is, with the commands that get them."""
        from ..evaluation.measuring import Judges
        from ..evaluation.pretrained import CLIP, DINO, load_clip, load_dino
        from ..models.diffusers.loading import chosen_device

        if self.clip is None and self.dino is None:
            raise SettingError(f"give --clip or --dino, or both. These get them: {CLIP.download}; {DINO.download}")
        device = chosen_device(self.device)
        return Judges(self.clip and load_clip(self.clip, device), self.dino and load_dino(self.dino, device))

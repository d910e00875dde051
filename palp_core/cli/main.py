"""The command `palp`: which command was asked for, and what is told of an error."""

from __future__ import annotations

import logging
import sys
import warnings

import tyro
from transformers.utils.logging import set_verbosity_error

from .demo import Demo
from .errors import sentence
from .evaluate import Evaluate
from .generate import Generate
from .info import Info
from .learn_word import LearnWord
from .sweep import Sweep
from .train import Train

COMMANDS = {
    "demo": Demo,
    "train": Train,
    "learn-word": LearnWord,
    "generate": Generate,
    "evaluate": Evaluate,
    "sweep": Sweep,
    "info": Info,
}
DESCRIPTION = "Prompt-aligned personalization (PALP) of diffusion models, without ComfyUI."


def main() -> None:
    logging.basicConfig(format="palp: %(message)s")
    # Where torchvision is missing, which we do not need, transformers says so twice in every command.
    set_verbosity_error()
    # What takes its place is unknown to the older diffusers that we support.
    warnings.filterwarnings("ignore", "`torch_dtype`", FutureWarning)
    chosen = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="palp", description=DESCRIPTION)
    try:
        chosen.run()
    except (Exception, KeyboardInterrupt) as error:
        if (told := sentence(error)) is None:
            raise
        sys.exit(f"palp: {told}")


if __name__ == "__main__":
    main()

"""Other ways to keep a prompt while a subject is learned, measured beside ours and not shipped.

A rival changes what a step of plain training minimizes, or what of the LoRA works when. Everything else is plain
training's: photos, noise, words, optimizer, seeds. Beside ours, on the embedded UNet:

    export OMP_NUM_THREADS=1
    python -m benchmarks.toyworld run --one-prompt-each --seeds 0 --steps 50 100 200 300 --pictures 8 \
        --methods ti_db delta palp output_preservation blank_preservation dco t_lora --results ROWS.jsonl
    python -m benchmarks.toyworld table --shared --results ROWS.jsonl

`--unet TWIN.safetensors --guidance SCALE` measures on the UNet's twin that predicts noise, into a file of its own.
Rows tell the seconds of training, so that methods compare at equal compute. A plain step takes 0.3 s of a CPU's core.
"""

from .dco import Dco
from .direction import directional_training
from .preservation import Preservation
from .t_lora import TLora
from .training import Rival, rival_training

__all__ = ["Dco", "Preservation", "Rival", "TLora", "directional_training", "rival_training"]

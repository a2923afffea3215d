"""The examples below each command's help, those of `lovasz paper` aside. Apart from the commands, which they crowd."""

from collections.abc import Mapping, Sequence

EXAMPLES = {
    "lovasz": (
        "lovasz compare --data shapes",
        "lovasz compare --data folder:my_images --out runs/mine",
        "lovasz predict new_photos --weights runs/mine/lovasz_softmax/seed-0/model.safetensors",
        "lovasz doctor",
    ),
    "compare": (
        "lovasz compare --data folder:my_images",
        "lovasz compare --data camvid:CamVid --weights enet.safetensors --epochs 5 --seeds 3",
        'lovasz compare --data shapes --losses "cross_entropy,cross_entropy>lovasz_softmax"',
    ),
    "train": (
        "lovasz train --data folder:my_images --loss cross_entropy+0.5*lovasz_softmax",
        "lovasz train --data folder:my_images --loss lovasz_softmax --devices 2 --global-batch",
    ),
    "evaluate": (
        "lovasz evaluate --data camvid:CamVid --weights model.safetensors --split test",
        "lovasz evaluate --data voc:VOCdevkit --weights espnetv2.safetensors --model espnetv2 --size 384x384",
    ),
    "predict": ("lovasz predict photos --weights model.safetensors --out masks_of_photos",),
    "doctor": ("lovasz doctor",),
}


def help_examples(command: str, examples: Mapping[str, Sequence[str]] = EXAMPLES) -> str:
    """Below the options of a command's help."""
    return "\n".join(["[bold]Examples[/bold]", *(f"$ {line}" for line in examples[command])])

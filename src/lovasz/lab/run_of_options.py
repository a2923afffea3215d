"""The run that the options of `lovasz compare` and `train` describe. Apart from the commands, which both take the same
options and would each have to know the defaults that depend on the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lovasz.lab import option_texts, options
from lovasz.lab.config import RunConfig
from lovasz.lab.progress import loading


def run_of_options(given: dict[str, Any], losses: Sequence[str] | None, **changes: Any) -> RunConfig:
    """The run that the options of `compare` and `train` describe; defaults differ with and without --weights.

    Without --model it is the network of the weights, or that of RunConfig where there are none.
    losses: as typed, None where none is. What can be wrong without the data is found before they are read, which may
    take minutes.
    """
    with loading():
        from lovasz.lab.losses import LossSpec
        from lovasz.lab.models import check_name, network_of
        from lovasz.lab.processes import launched

    weights: Path | None = given["weights"]
    for loss in losses or ():
        LossSpec.parse(loss)
    model: str | None = given["model"]
    if model is not None:
        check_name(model)
    same = ("data", "data_seed", "batch_size", "learning_rate", "optimizer", "weight_decay", "momentum")
    same += ("poly_power", "validate_every", "keep", "flip", "color_jitter", "sampler", "freeze_batch_norm")
    same += ("precision", "device", "threads", "global_batch", "logger")
    run = RunConfig(
        **{name: given[name] for name in same},
        model=model or RunConfig.model,
        weights=None if weights is None else str(weights),
        loss=losses[0] if losses else options.DEFAULT_LOSS,
        epochs=given["epochs"] or 1,
        pretrain_epochs=given["pretrain_epochs"] or 0,
        size=(size := option_texts.parse_size(given["size"])),
        resize_training=size is not None,
        crop=None if given["crop"] is None else option_texts.parse_crop(given["crop"]),
        scale=option_texts.parse_scale(given["scale"]),
        num_workers=given["workers"],
        devices=given["devices"] or launched() or 1,
        data_options=option_texts.parse_data_options(given["data_option"]),
        **changes,
    )
    if weights is not None:
        held = network_of(weights)  # also where --model says it: the file must be one that can be read
        run = run.replace(model=model or held)
    if given["epochs"] is None or given["crop"] is None or not losses:
        from lovasz.lab import defaults
        from lovasz.lab.budget import budget
        from lovasz.lab.data import open_dataset

        images = open_dataset(run.data, "train", seed=run.data_seed, **run.data_options)
        budget(run, len(images))  # before so many processes start
        if given["epochs"] is None:
            step = run.devices * run.batch_size
            run = run.replace(epochs=defaults.default_epochs(images, step, from_weights=weights is not None))
        if given["crop"] is None:
            run = run.replace(crop=defaults.default_crop(images, size))
        if not losses:
            run = run.replace(loss=defaults.default_loss(run, len(images)))
    if given["pretrain_epochs"] is None and weights is None:
        run = run.replace(pretrain_epochs=run.epochs)
    return run

"""Losses by name, for class logits and a label map: single names, weighted sums, and switches during the run.

Apart from `lovasz.functional`, which holds the formulas: here stands only how a short text becomes a training loss.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lovasz.lab.errors import LabError
from lovasz.sharing import ProcessGroup, sum_over

Loss = Callable[..., Tensor]

NAMES = (
    "cross_entropy",
    "weighted_cross_entropy",
    "lovasz_softmax",
    "weighted_lovasz_softmax",
    "lovasz_hinge",
    "lovasz_sigmoid",
    "hinge",
    "soft_jaccard",
)
MEANT = {"lovasz": "lovasz_softmax", "ce": "cross_entropy", "jaccard": "soft_jaccard", "iou": "soft_jaccard"}
WEIGHTED = ("weighted_cross_entropy", "weighted_lovasz_softmax")
SHAREABLE = ("lovasz_softmax", "weighted_lovasz_softmax", "lovasz_hinge", "lovasz_sigmoid")


@dataclass(frozen=True)
class LossSpec:
    """A loss as text. Spaces are free.

        lovasz_softmax                            one loss
        cross_entropy+0.5*lovasz_softmax          a sum; each term may carry a positive factor
        cross_entropy>lovasz_softmax              the first for the first half of the run, then the second
        cross_entropy>0.8>lovasz_softmax          the switch at 80 % of the run's steps

    Several switches are allowed; those without a number divide the run evenly, so a spec gives all numbers or none.

    phases: for each phase its terms, (factor, name); starts: the fraction of the run at which each phase starts.
    """

    phases: tuple[tuple[tuple[float, str], ...], ...]
    starts: tuple[float, ...]
    explicit: bool = False

    @classmethod
    def parse(cls, text: str) -> LossSpec:
        """Read a spec. Raises LabError with the list of losses and the nearest name."""
        parts = [part.strip() for part in text.split(">")]
        phases: list[tuple[tuple[float, str], ...]] = []
        fractions: list[float] = []
        for i, part in enumerate(parts):
            number = _number(part)
            if number is None:
                if i and _number(parts[i - 1]) is None:
                    fractions.append(math.nan)
                phases.append(_parse_sum(part, text))
            elif i == 0 or i == len(parts) - 1 or _number(parts[i - 1]) is not None:
                raise LabError(f"loss {text!r}: the number {part!r} must stand between two losses, as in 'a>0.8>b'.")
            elif not 0.0 < number < 1.0:
                raise LabError(f"loss {text!r}: the switch at {part} must lie between 0 and 1, a fraction of the run.")
            else:
                fractions.append(number)
        implicit = [math.isnan(fraction) for fraction in fractions]
        if any(implicit) and not all(implicit):
            raise LabError(f"loss {text!r}: give the fraction of every switch, or of none.")
        explicit = bool(fractions) and not any(implicit)
        if not explicit:
            fractions = [i / len(phases) for i in range(1, len(phases))]
        if any(later <= earlier for earlier, later in pairwise(fractions)):
            raise LabError(f"loss {text!r}: the switches must come at growing fractions of the run.")
        return cls(tuple(phases), (0.0, *fractions), explicit)

    def __str__(self) -> str:
        """The spec in one canonical spelling, so that two texts of one loss are seen as one."""
        text = _sum_text(self.phases[0])
        for start, phase in zip(self.starts[1:], self.phases[1:], strict=True):
            text += f">{_written(start)}>" if self.explicit else ">"
            text += _sum_text(phase)
        return text

    @property
    def slug(self) -> str:
        """The canonical spelling with letters that every file system and shell takes."""
        text = re.sub(r">([\d.e-]+)>", r"-until-\1-then-", str(self))
        return text.replace(">", "-then-").replace("*", "x-").replace("+", "-plus-")

    @property
    def needs_class_weights(self) -> bool:
        """Whether `build` must be given class weights."""
        return any(name in WEIGHTED for phase in self.phases for _, name in phase)

    @property
    def shareable(self) -> bool:
        """Whether a part of it can be the loss of the images of several processes together."""
        return any(name in SHAREABLE for phase in self.phases for _, name in phase)

    def phase_at(self, progress: float) -> int:
        """The phase of a moment of the run. progress: steps done / steps of the run, in [0, 1]."""
        return max(i for i, start in enumerate(self.starts) if progress >= start)

    def idle(self, steps: int) -> str | None:
        """The first phase, as text, that gets none of so many steps; None where each gets some."""
        reached = {self.phase_at(step / steps) for step in range(steps)}
        return next((_sum_text(phase) for i, phase in enumerate(self.phases) if i not in reached), None)

    def build(
        self,
        num_classes: int,
        ignore_index: int,
        class_weights: Tensor | None = None,
        group: ProcessGroup | None = None,
    ) -> TrainingLoss:
        """The loss as a module, called as `loss(logits, target, progress)`.

        class_weights: (C,), needed by the weighted losses, see `class_weights`. Raises LabError without them.
        group: the processes whose images together the Lovász losses are of; see `lovasz.lovasz_softmax`.
        """
        return TrainingLoss(self, num_classes, ignore_index, class_weights, group)


class TrainingLoss(nn.Module):
    """A built LossSpec.

    - cross_entropy: the mean over pixels that are not void.
    - weighted_cross_entropy: the same with ENet's class weights; the mean divides by the sum of the weights.
    - lovasz_softmax: Eq. 11 on the softmax, over the classes present in the batch.
    - weighted_lovasz_softmax: the same with ENet's class weights in the mean over classes (Eq. 13), which puts rare
      classes before frequent ones: the paper's suggestion for iIoU (Section 4.4).
    - lovasz_hinge, lovasz_sigmoid, hinge: binary losses. With two classes the score is the logit of class 1
      (foreground) minus that of class 0. With more, each class stands against the rest with its own logit as the score,
      and the mean is taken over the classes present in the batch (hinge: over all). The whole batch is one image.
    - soft_jaccard: 1 minus the soft Jaccard index of the softmax, over the classes present, Rahman & Wang 2016.

    With `group` the batch of the lovasz losses is that of all its processes; the others take that of their own.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        spec: LossSpec,
        num_classes: int,
        ignore_index: int,
        class_weights: Tensor | None,
        group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise LabError(f"loss {spec}: got {num_classes} classes, expected at least 2 (background counts as one).")
        if spec.needs_class_weights and class_weights is None:
            raise LabError(f"loss {spec}: weighted losses need class weights from the training masks.")
        if class_weights is not None and tuple(class_weights.shape) != (num_classes,):
            raise LabError(
                f"loss {spec}: got class weights of shape {tuple(class_weights.shape)}, expected ({num_classes},)."
            )
        self.spec, self.num_classes, self.ignore_index, self.group = spec, num_classes, ignore_index, group
        self.register_buffer("class_weights", class_weights, persistent=False)
        self._losses = {name: self._loss(name) for phase in spec.phases for _, name in phase}

    def phase_at(self, progress: float) -> int:
        """The phase of its spec at this moment of the run."""
        return self.spec.phase_at(progress)

    def forward(self, logits: Tensor, target: Tensor, progress: float = 0.0) -> Tensor:
        """The loss of this moment of the run.

        logits: (N, C, H, W) floating; target: (N, H, W) int64; progress: steps done / steps of the run, in [0, 1].
        Returns a scalar.
        """
        phase = self.phase_at(progress)
        weights = {name: factor for factor, name in self.spec.phases[phase]}
        if weights.keys() == {"cross_entropy", "lovasz_softmax"} and self.group is None:
            return self._both(logits, target, weights)
        terms = [self._losses[name](logits, target) * factor for factor, name in self.spec.phases[phase]]
        return torch.stack(terms).sum() if len(terms) > 1 else terms[0]

    def _loss(self, name: str) -> Loss:
        if name == "cross_entropy":
            return self._cross_entropy
        if name == "weighted_cross_entropy":
            return self._weighted_cross_entropy
        if name == "lovasz_softmax":
            from lovasz.functional import lovasz_softmax

            return partial(lovasz_softmax, ignore_index=self.ignore_index, group=self.group)
        if name == "weighted_lovasz_softmax":
            return self._weighted_lovasz_softmax
        if name == "soft_jaccard":
            from lovasz.baselines import soft_jaccard_loss

            return partial(soft_jaccard_loss, ignore_index=self.ignore_index)
        binary = self.num_classes == 2
        if name == "hinge":
            from lovasz.baselines import hinge_loss

            loss = partial(hinge_loss, ignore_index=self.ignore_index)
            return partial(_foreground, loss) if binary else loss
        if name == "lovasz_sigmoid":
            from lovasz.functional import lovasz_sigmoid

            loss = partial(lovasz_sigmoid, ignore_index=self.ignore_index, group=self.group)
            return partial(_foreground, loss) if binary else partial(self._lovasz_multilabel, loss)
        from lovasz.functional import lovasz_hinge

        loss = partial(lovasz_hinge, per_image=False, ignore_index=self.ignore_index, group=self.group)
        return partial(_foreground, loss) if binary else partial(self._one_vs_rest, loss)

    def _both(self, logits: Tensor, target: Tensor, weights: dict[str, float]) -> Tensor:
        from lovasz.functional import lovasz_cross_entropy

        return lovasz_cross_entropy(
            logits,
            target,
            lovasz_weight=weights["lovasz_softmax"],
            cross_entropy_weight=weights["cross_entropy"],
            ignore_index=self.ignore_index,
        )

    def _cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        total = F.cross_entropy(logits, target, ignore_index=self.ignore_index, reduction="sum")
        return total / (target != self.ignore_index).sum().clamp(min=1)  # all void: 0, where the mean gives NaN

    def _weighted_cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        weight = self.class_weights
        assert weight is not None
        weight = weight.to(logits.dtype)
        total = F.cross_entropy(logits, target, weight=weight, ignore_index=self.ignore_index, reduction="sum")
        valid = target != self.ignore_index
        shares = weight[target.where(valid, 0)].where(valid, 0)
        return total / shares.sum().clamp(min=torch.finfo(logits.dtype).tiny)

    def _weighted_lovasz_softmax(self, logits: Tensor, target: Tensor) -> Tensor:
        from lovasz.functional import lovasz_softmax

        weight = self.class_weights
        return lovasz_softmax(logits, target, weight=weight, ignore_index=self.ignore_index, group=self.group)

    def _lovasz_multilabel(self, loss: Loss, logits: Tensor, target: Tensor) -> Tensor:
        labels = torch.arange(self.num_classes, device=target.device).view(1, -1, *[1] * (target.ndim - 1))
        masks = (target.unsqueeze(1) == labels).to(torch.int16)  # (N, C, H, W)
        masks = masks.masked_fill((target == self.ignore_index).unsqueeze(1), self.ignore_index)
        return loss(logits, masks, multilabel=True)

    def _one_vs_rest(self, loss: Loss, logits: Tensor, target: Tensor) -> Tensor:
        valid = target != self.ignore_index
        values, present = [], []
        for c in range(self.num_classes):
            foreground = target == c
            values.append(loss(logits[:, c], foreground.to(target.dtype).where(valid, self.ignore_index)))
            present.append(foreground.any())
        mask = sum_over(self.group, torch.stack(present).long()) > 0  # (C,)
        return torch.stack(values).where(mask, 0.0).sum() / mask.sum().clamp(min=1)


def _foreground(loss: Loss, logits: Tensor, target: Tensor) -> Tensor:
    return loss(logits[:, 1] - logits[:, 0], target)


def class_weights(frequencies: Tensor) -> Tensor:
    """ENet's class weights, w_c = 1 / ln(1.02 + p_c), float32.

    frequencies: (C,), p_c = share of class c among the pixels of the training masks that are not void.
    Source: Paszke et al. 2016, section 5.2 (c = 1.02); not normalised there, nor here.
    """
    return (1.0 / torch.log(1.02 + frequencies.double())).float()


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d*\.?\d+(e-?\d+)?", text) else None


def _parse_sum(part: str, text: str) -> tuple[tuple[float, str], ...]:
    terms = []
    for term in part.split("+"):
        factor_text, star, name = term.rpartition("*")
        name, factor = name.strip(), _number(factor_text.strip()) if star else 1.0
        if factor is None or factor <= 0.0:
            raise LabError(
                f"loss {text!r}: {term.strip()!r} is not 'factor*name' with a positive number, as '0.5*hinge'."
            )
        if name not in NAMES:
            raise LabError(f"loss {text!r}: there is no loss {name!r}.{_hint(name)} Losses: {', '.join(NAMES)}.")
        if any(name == earlier for _, earlier in terms):
            raise LabError(f"loss {text!r}: {name!r} stands twice in a sum; give it once, with the sum of its factors.")
        terms.append((factor, name))
    return tuple(terms)


def _hint(name: str) -> str:
    if "," in name:
        return " A sum is written a+b; several losses are for compare --losses a,b."
    if "dice" in name.lower():
        return " Which to take where Dice is the score: docs/which-loss.md."
    meant = MEANT.get(name.lower())
    nearest = [meant] if meant else difflib.get_close_matches(name, NAMES, 1, 0.4)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""


def _sum_text(phase: tuple[tuple[float, str], ...]) -> str:
    return "+".join(name if factor == 1.0 else f"{_written(factor)}*{name}" for factor, name in phase)


def _written(number: float) -> str:
    """As `_number` reads it back, in few digits where few say it: a plus would begin another term of the sum."""
    short = f"{number:g}"
    return (short if float(short) == number else repr(number)).replace("e+", "e")

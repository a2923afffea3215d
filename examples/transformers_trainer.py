"""SegFormer with the Trainer of transformers: `compute_loss_func` puts our loss in the place of the model's own.

The network is tiny and random here; `SegformerForSemanticSegmentation.from_pretrained(...)` is the usual start.
"""

import tempfile

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset
from transformers import SegformerConfig, SegformerForSemanticSegmentation, Trainer, TrainingArguments

from lovasz import LovaszCrossEntropyLoss
from lovasz.metrics import DatasetIoU

torch.manual_seed(0)


class Squares(Dataset):
    """Drawn data: squares of two classes on noise; 255 is void. Yours gives the same dictionary."""

    def __init__(self, count):
        self.masks = torch.zeros(count, 64, 64, dtype=torch.long)
        for i, mask in enumerate(self.masks):
            y, x = torch.randint(0, 32, (2,)).tolist()
            mask[y : y + 32, x : x + 32] = 1 + i % 2
            mask[0] = 255
        self.images = torch.eye(3)[self.masks % 255].movedim(-1, 1) + 0.5 * torch.randn(count, 3, 64, 64)

    def __len__(self):
        return len(self.masks)

    def __getitem__(self, index):
        return {"pixel_values": self.images[index], "labels": self.masks[index]}


def upsampled(logits, size):
    """SegFormer's logits have a quarter of the resolution: bring them to the mask's, never the mask to theirs."""
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


criterion = LovaszCrossEntropyLoss(ignore_index=255)  # cross-entropy too: this network starts from random weights


def compute_loss(outputs, labels, num_items_in_batch=None):
    loss = criterion(upsampled(outputs.logits, labels.shape[1:]), labels)
    # A Trainer with a loss function from outside leaves this division to it (it means sums over num_items_in_batch).
    # It knows how many batches this step has, the last one too; while evaluating there is nothing to accumulate.
    return loss / trainer.current_gradient_accumulation_steps if torch.is_grad_enabled() else loss


def class_indices(logits, labels):
    """Of one batch: the Trainer keeps these until the end, and all logits at this size would not fit."""
    return upsampled(logits, labels.shape[1:]).argmax(1)


def compute_metrics(prediction):
    metric = DatasetIoU(num_classes=3, ignore_index=255)
    metric.update(torch.from_numpy(prediction.predictions), torch.from_numpy(prediction.label_ids))
    return {"miou": float(metric.compute())}


config = SegformerConfig(
    num_labels=3, depths=[1] * 4, hidden_sizes=[16, 16, 32, 32], num_attention_heads=[1] * 4, decoder_hidden_size=32
)
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder,
        num_train_epochs=10,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        average_tokens_across_devices=False,  # else the loss is multiplied by the number of GPUs
        learning_rate=5e-3,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = Trainer(
        SegformerForSemanticSegmentation(config),
        arguments,
        train_dataset=Squares(32),
        eval_dataset=Squares(8),
        compute_loss_func=compute_loss,
        preprocess_logits_for_metrics=class_indices,
        compute_metrics=compute_metrics,
    )
    before = trainer.evaluate()["eval_miou"]
    trainer.train()
    after = trainer.evaluate()["eval_miou"]
print(f"mIoU {before:.3f} before, {after:.3f} after")

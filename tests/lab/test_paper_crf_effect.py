"""Figure 5: what the CRF changes is counted by class from the scores, and its images are those that it changes most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lovasz.lab.config import read_json
from lovasz.lab.crf import CRF
from lovasz.lab.data import open_dataset
from lovasz.lab.models import create_model, save_weights
from lovasz.lab.paper import crf_effect, crops, multiclass, page, table2
from lovasz.lab.paper.result import matplotlib_pyplot, read_result

SHAPES = "shapes?size=24&train=8&val=12"
PUBLISHED = Path(__file__).parents[2] / "docs" / "results" / "paper" / "multiclass.json"


class Bars:
    """Stands for pyplot and what it makes: keeps the bars."""

    def __init__(self) -> None:
        self.drawn: dict[str, np.ndarray] = {}

    def subplots(self, **_):
        return self, self

    def bar(self, places, values, width, label):
        self.drawn[label] = np.asarray(values)

    def __getattr__(self, _):
        return lambda *_, **__: None


class First(nn.Module):
    """The first class everywhere."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, image: Tensor) -> Tensor:
        logits = torch.zeros(len(image), self.classes, *image.shape[2:])
        logits[:, 0] = 1
        return logits


def refine_to_the_next_class(self, image, probabilities):
    return np.roll(probabilities, 1, 0)


def test_a_bar_is_the_iou_of_a_class_behind_the_crf_less_that_without_it():
    answers = read_json(PUBLISHED)["scores"]["answers"]
    bars = Bars()
    labels = {"start": "before", "lovasz_softmax, shuffle": "Lovász-Softmax"}
    crf_effect.draw_gains(bars, answers, labels, Path("unused"))
    assert list(bars.drawn) == list(labels.values())
    for name, label in labels.items():
        ways = answers[name]["ways"]
        mean = 100 * (ways["crf"]["dataset_miou"] - ways["multi"]["dataset_miou"])  # both over all classes
        assert bars.drawn[label].mean() == pytest.approx(mean)
    before, after = (answers["start"]["ways"][way]["per_class_iou"]["sheep"] for way in ("multi", "crf"))
    place = list(answers["start"]["ways"]["multi"]["per_class_iou"]).index("sheep")
    assert bars.drawn["before"][place] == pytest.approx(100 * (after - before))


def test_a_class_without_an_iou_has_no_bar():
    found = {
        "ways": {"multi": {"per_class_iou": {"a": 0.5, "b": None}}, "crf": {"per_class_iou": {"a": 0.6, "b": 0.1}}}
    }
    assert crf_effect.gains(found) == {"a": pytest.approx(0.1), "b": None}
    bars = Bars()
    crf_effect.draw_gains(bars, {"one": found}, {"one": "one"}, Path("unused"))
    assert np.isnan(bars.drawn["one"][1])


def test_the_images_are_those_on_which_the_crf_changes_most(tmp_path, monkeypatch):
    pytest.importorskip("pydensecrf.densecrf")
    monkeypatch.setattr(CRF, "refine", refine_to_the_next_class)
    data = open_dataset(SHAPES, "val")
    how = {"size": None, "scales": (1.0,), "device": torch.device("cpu")}
    network = First(data.info.num_classes)
    path = tmp_path / "crops.png"
    names = crf_effect.draw_images(matplotlib_pyplot(), network, CRF(), data, path, **how)
    changed = {}
    for sample in (data[i] for i in range(len(data))):
        mask = sample.mask.numpy()  # right before the CRF where the class is 0, behind it where it is 1
        changed[sample.name] = crops.densest_window((mask == 0) | (mask == 1))[0]
    most = sorted(changed.values(), reverse=True)[: len(names)]
    assert sorted((changed[name] for name in names), reverse=True) == most
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def start(tmp_path) -> Path:
    info = open_dataset(SHAPES, "train").info
    torch.manual_seed(0)
    path = tmp_path / "w.safetensors"
    save_weights(create_model("unet", info.num_classes), path, model_name="unet", classes=info.classes, palette=None)
    return path


def test_the_experiment_draws_figure_5_with_the_parameters_that_were_searched(start, tmp_path, monkeypatch):
    pytest.importorskip("pydensecrf.densecrf")
    seen = []

    def refine(self, image, probabilities):
        seen.append(self)
        return probabilities if self.appearance_weight != 6.0 else np.roll(probabilities, 1, 0)

    def draw(pyplot, network, crf, *_, **__):
        seen.append(("drawn with", crf))

    monkeypatch.setattr(CRF, "refine", refine)
    monkeypatch.setattr(crf_effect, "draw_images", draw)
    setting = multiclass.Setting(
        data=SHAPES, weights=str(start), model="unet", losses=("lovasz_softmax",), samplers=("shuffle",), epochs=1,
        batch_size=4, crop=(16, 16), learning_rates=(1e-3,), images=2, crf_search=1, batches=0, scales=(1.0,),
        device="cpu", threads=1,
    )  # fmt: skip
    threads = torch.get_num_threads()
    document = read_result(multiclass.run(tmp_path / "m", setting))
    torch.set_num_threads(threads)
    best = document["scores"]["answers"]["lovasz_softmax, shuffle"]["crf"]["best"]
    assert [one[1] for one in seen if isinstance(one, tuple)] == [CRF(**best)]
    assert list(document["pictures"]) == [crf_effect.PICTURE, "paper-figure-6.png"]  # not the crops
    text = page.render(table2.section(document), document, "x")
    assert "at several scales, 2 images of val at their own size; its parameters searched for each network." in text


def test_without_the_crf_there_is_no_figure_5(tmp_path):
    pytest.importorskip("matplotlib")
    captions = multiclass.draw_all(
        matplotlib_pyplot(),
        {
            "answers": {"start": {"ways": {"single": {}, "multi": {}}}},
            "training": {"start": {"val": {}}, "runs": [], "chosen": []},
        },
        tmp_path,
    )
    assert list(captions) == ["paper-figure-6.png"]

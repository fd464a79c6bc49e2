"""Every recipe that ships loads; every broken one is one line that names the key."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training needs the train extra")

from torch.nn import Flatten

from livemarks import plugins
from livemarks.train import recipe
from livemarks.types import LivemarksError

NAMES = sorted(path.stem for path in recipe.FOLDER.glob("*.toml"))


@pytest.mark.parametrize("name", NAMES)
def test_recipes_load_and_build_their_net(name: str) -> None:
    loaded = recipe.load(name)
    assert loaded.name == name
    scheme = plugins.load("schemes", loaded.scheme)
    net = plugins.load("models", loaded.architecture)(scheme, size_hw=loaded.size_hw, **loaded.options)
    assert sum(p.numel() for p in net.parameters()) > 1000


def test_a_card_tells_the_command_that_can_be_run_again(tmp_path: Path) -> None:
    text = (recipe.FOLDER / "nose1.toml").read_text().replace('name = "nose1"', 'name = "my-nose"')
    (tmp_path / "mine.toml").write_text(text)
    commands = [recipe.card(recipe.load(name), {}).command for name in ("nose1", str(tmp_path / "mine.toml"))]
    assert commands == ["livemarks train nose1 --data DIR", "livemarks train mine.toml --data DIR"]
    (tmp_path / "mine.toml").write_text(f'command = "rm"\n{text}')
    with pytest.raises(LivemarksError, match="unknown key 'command'"):
        recipe.load(str(tmp_path / "mine.toml"))


def test_a_model_that_builds_something_else_is_told_what_it_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("livemarks.models.convnet.build", lambda *_, **__: Flatten())
    with pytest.raises(LivemarksError, match=r"a Flatten, which is no models\._net\.LandmarkNet"):
        recipe.load("kth15")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("size_hw = [4, 4]", "size_hw"),
        ('size_hw = "big"', "size_hw"),
        ('loss = "hope"', "loss"),
        ('architecture = "os"', "architecture"),
        ('scheme = "os"', "scheme"),
        ("colour = 1", "colour"),
        ("stages = 3", "stages"),
        ("stages = []", "stages"),
        ('stages = [{sets = ["afw"], steps = 0, lr = 0.1}]', "steps"),
        ('stages = [{sets = "afw", steps = 1, lr = 0.1}]', "sets"),
        ("stages = [{steps = 1, lr = 0.1}]", "sets is missing"),
        ("stages = [{sets = [], steps = 1, lr = 0.1}]", "sets"),
        ("stages = [{sets = [3], steps = 1, lr = 0.1}]", "sets"),
        ('stages = [{sets = ["afw"], steps = 1, lr = nan}]', "lr"),
        ('stages = [{sets = ["afw"], steps = 1, lr = 0.1, trust = 2}]', "trust"),
        ("stages = [{sets = ['afw'], steps = 1, lr = 0.1, teacher = ['self'], relabel = ['awf']}]", "'awf'"),
        ('name = "My Net"', "no card can say this: field 'name'"),
        ('notes = "\\t"', "no card can say this: field 'notes'"),
        ("options = {head = 2026-11-21}", "no card can say this"),
        ("options = {width = 4}", "pyramid can't be built"),
        ("options = {widths = []}", "pyramid can't be built"),
        ("options = {stem = 0}", "pyramid can't be built"),
        ("size_hw = [8, 2000]", "size_hw"),
        ('architecture = "convnet"\nloss = "heatmap"', "convnet has not the heatmaps"),
        ('loss = "gaussian"', "pyramid has not the heatmaps"),
        ('labels = "kaggle15"', "labels of kaggle15 points do not tell those of ibug68"),
        ("augment = 7", "augment"),
        ("augment = {flip = -0.5}", "flip"),
        ("validate_every = 0", "validate_every"),
        ("ema = 1", "ema"),
        ("holdout = 1.5", "holdout"),
        ("canvas = 0", "canvas"),
        ("margin = -1", "margin"),
        ("weight_decay = nan", "weight_decay"),
        ('labels = "os"', "os"),
        ("stages = [{sets = ['afw'], steps = 1, lr = 0.1, teacher = [3], trust = 1.0}]", "teacher"),
        ("stages = [{sets = ['afw'], steps = 1, lr = 0.1, teacher = ['self']}]", "relabel or trust"),
        ("stages = [{sets = ['afw'], steps = 1, lr = 0.1, trust = 0.5}]", "need a teacher"),
        ('options = "x"', "options"),
        ("stages = [{sets = ['afw'], steps = 1, lr = 0.1, size_hw = [4, 4]}]", "size_hw"),
        ("stages = [{sets = ['afw'], steps = 1, lr = 0.1, size_hw = 64}]", "size_hw"),
        (
            'architecture = "convnet"\nstages = [{sets = ["afw"], steps = 1, lr = 0.1, size_hw = [32, 32]}]',
            "convnet can't be built with this size",
        ),
        ("= =", "can't be read"),
    ],
)
def test_broken_recipes_are_one_clear_line(tmp_path: Path, line: str, says: str) -> None:
    good = {
        "name": '"x"',
        "scheme": '"ibug68"',
        "architecture": '"pyramid"',
        "size_hw": "[64, 64]",
        "margin": "1.4",
        "loss": '"wing"',
        "stages": '[{sets = ["afw"], steps = 1, lr = 0.1}]',
    }
    keys = [part.split("=")[0].strip() for part in line.split("\n")]
    text = "\n".join(f"{k} = {v}" for k, v in good.items() if k not in keys)
    path = tmp_path / "x.toml"
    path.write_text(text + "\n" + line + "\n")
    with pytest.raises(LivemarksError, match=says) as caught:
        recipe.load(str(path))
    assert "\n" not in str(caught.value).strip()


def test_unknown_recipes_name_the_known() -> None:
    with pytest.raises(LivemarksError, match="lite-68"):
        recipe.load("lite-86")

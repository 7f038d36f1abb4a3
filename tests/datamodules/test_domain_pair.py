import pytest
import torch
from torchvision.transforms import v2

from datamodules import Bags, Digits, DomainPair, ImageList, LabelNoise, WholeSet
from tests.datamodules.domains import Tiny, guide, joined, pair, write_domain
from tests.helpers.tiny import TinyModule, tiny_trainer

# ---- training -----------------------------------------------------------------------------------


def test_training_batches_are_pairs_without_labels_of_the_target():
    data = pair()
    batches = list(data.train_dataloader())
    assert [len(batch["index"]) for batch in batches] == [8] * 6, "24 of the target, 24 of 20"
    assert sorted(batches[0]) == ["domain", "image", "index", "label"]
    train = joined(batches)
    assert train["domain"].tolist() == [0, 1] * 24
    assert train["domain"].dtype == train["label"].dtype == torch.int64
    source = train["domain"] == 0
    assert torch.equal(source, train["index"] < 20)
    torch.testing.assert_close(train["image"][:, 0, 0, 0], train["index"] / 255)
    assert torch.equal(train["label"][source], train["index"][source] % 5)
    assert train["label"][~source].eq(-1).all()
    assert sorted(train["index"][source].unique().tolist()) == list(range(20))
    assert len(train["index"][~source].unique()) == 24, "the larger domain once"


def test_the_datamodule_tells_what_its_images_are():
    data = pair()
    assert (data.num_classes, data.input_shape, data.num_samples) == (5, (1, 4, 4), 50)
    assert data.class_names == [f"class {k}" for k in range(5)]
    assert data.has_domains
    roots = data.train_set
    data.setup("test")
    assert data.train_set is roots, "reads once"
    whole = pair(drop_last=True, batch_size=10).train_dataloader()
    assert [len(batch["index"]) for batch in whole] == [10] * 4


def test_the_ordered_training_set_is_the_source_and_then_the_kept_target():
    data = pair()
    ordered = joined(data.ordered_train_dataloader())
    kept = sorted(set(range(20, 50)) - set(guide(data)["index"].tolist()))
    assert ordered["index"].tolist() == [*range(20), *kept]
    assert ordered["label"][20:].eq(-1).all()


def test_noise_is_that_of_the_source_in_training():
    data = pair(Tiny(label_noise=LabelNoise("pair", rate=1.0)))
    train = joined(data.train_dataloader())
    source = train["domain"] == 0
    assert torch.equal(train["label"][source], (train["index"][source] + 1) % 5)
    assert torch.equal(train["clean_label"][source], train["index"][source] % 5)
    assert train["label"][~source].eq(-1).all()
    assert train["clean_label"][~source].eq(-1).all()
    val = joined(data.val_dataloader())
    assert torch.equal(val["label"], val["index"] % 5)
    assert "clean_label" not in val


# ---- the held-out part --------------------------------------------------------------------------


def test_the_guide_is_a_share_of_the_target_that_is_not_trained():
    data = pair()
    held = guide(data)
    assert sorted(held) == ["domain", "image", "index", "label"]
    assert len(held["index"]) == len(held["index"].unique()) == 6
    assert held["index"].min() >= 20
    assert held["domain"].eq(1).all()
    assert held["label"].eq(-1).all()
    torch.testing.assert_close(held["image"][:, 0, 0, 0], held["index"] / 255)
    trained = set(joined(data.train_dataloader())["index"].tolist())
    assert trained | set(held["index"].tolist()) == set(range(50))
    assert not trained & set(held["index"].tolist())
    assert sorted(held["index"].tolist()) != list(range(20, 26)), "scattered"


def test_the_split_follows_its_own_seed(monkeypatch):
    first = sorted(guide(pair())["index"].tolist())
    order = joined(pair().train_dataloader())["index"]
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert sorted(guide(pair())["index"].tolist()) == first
    assert not torch.equal(joined(pair().train_dataloader())["index"], order), "as the run is"
    assert sorted(guide(pair(split_seed=1))["index"].tolist()) != first
    larger = Tiny(29)
    moved = pair(larger, Tiny(30, first=29))
    assert [row - 9 for row in sorted(guide(moved)["index"].tolist())] == first, "any source"


def test_without_a_share_nothing_is_held_out_until_it_is_asked_for():
    data = pair(held_out=0)
    assert data.guide_set is None
    assert len(joined(data.train_dataloader())["index"].unique()) == 50
    assert not joined(data.val_dataloader())["held_out"].any()
    data.hold_out(0.2)
    expected = pair()
    assert torch.equal(guide(data)["index"], guide(expected)["index"])
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        found, wanted = joined(getattr(data, loader)()), joined(getattr(expected, loader)())
        assert all(torch.equal(found[name], wanted[name]) for name in wanted), loader


# ---- evaluation ---------------------------------------------------------------------------------


def test_validation_is_some_of_the_source_and_all_of_the_target_with_labels():
    data = pair(source_eval=7, eval_batch_size=5)
    batches = list(data.val_dataloader())
    assert [len(batch["index"]) for batch in batches] == [5] * 7 + [2]
    val = joined(batches)
    assert sorted(val) == ["domain", "held_out", "image", "index", "label"]
    assert val["domain"].tolist() == [0] * 7 + [1] * 30
    assert torch.equal(val["label"], val["index"] % 5)
    torch.testing.assert_close(val["image"][:, 0, 0, 0], val["index"] / 255)
    assert val["index"].tolist() == [*sorted(val["index"][:7].tolist()), *range(20, 50)]
    assert val["index"][:7].tolist() != list(range(7)), "scattered"
    assert val["held_out"].dtype == torch.bool
    assert val["index"][val["held_out"]].tolist() == sorted(guide(data)["index"].tolist())
    again, other = (joined(pair(source_eval=7, split_seed=k).val_dataloader()) for k in (0, 1))
    assert torch.equal(val["index"], again["index"])
    assert not torch.equal(val["index"], other["index"])


@pytest.mark.parametrize(("source_eval", "rows"), [(0, 0), (20, 20), (1000, 20)])
def test_source_eval_is_at_most(source_eval, rows):
    val = joined(pair(source_eval=source_eval).val_dataloader())
    assert val["index"].tolist() == [*range(rows), *range(20, 50)]


def test_the_test_part_of_the_target_is_tested():
    data = pair(Tiny(20, test=9), Tiny(30, test=6, first=20))
    for loader in (data.test_dataloader(), data.predict_dataloader()):
        test = joined(loader)
        assert sorted(test) == ["domain", "held_out", "image", "index", "label"]
        assert test["index"].tolist() == list(range(6))
        torch.testing.assert_close(test["image"][:, 0, 0, 0], (50 + test["index"]) / 255)
        assert torch.equal(test["label"], (50 + test["index"]) % 5)
        assert test["domain"].eq(1).all()
        assert not test["held_out"].any()
    assert data.num_samples == 50


def test_without_a_test_part_all_of_the_target_is_tested():
    data = pair()
    test = joined(data.test_dataloader())
    assert data.predict_set is data.test_set
    assert test["index"].tolist() == list(range(30)), "rows of the target"
    torch.testing.assert_close(test["image"][:, 0, 0, 0], (20 + test["index"]) / 255)
    assert torch.equal(test["label"], (20 + test["index"]) % 5)
    held = sorted(guide(data)["index"].tolist())
    assert (20 + test["index"][test["held_out"]]).tolist() == held


# ---- ranks, workers, resume ---------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_is_continued_where_it_stood(num_workers):
    arguments = {"augment": [v2.RandomAffine(0, translate=(0.5, 0.5))], "num_workers": num_workers}
    data = pair(**arguments)
    whole = list(data.train_dataloader())
    resumed = pair(**arguments)
    resumed.load_state_dict({**data.state_dict(), "epoch": 0, "position": 2})
    rest = list(resumed.train_dataloader())
    assert len(rest) == len(whole) - 2
    for found, expected in zip(rest, whole[2:], strict=True):
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_checkpoint_of_another_split_is_refused():
    state = pair().state_dict()
    pair().load_state_dict(state)
    for change in ({"held_out": 0.1}, {"split_seed": 1}):
        with pytest.raises(RuntimeError, match="images of the target that are now held out"):
            pair(**change).load_state_dict(state)


class PairModule(TinyModule):
    """Classifies the source, and draws the outputs of both domains to one mean."""

    def __init__(self):
        super().__init__()
        self.network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))

    def objectives(self, batch):
        source = batch["domain"] == 0
        objectives = super().objectives({**batch, "label": batch["label"].clamp(min=0)})
        entropy = objectives.per_sample["classification"]
        objectives.per_sample["classification"] = torch.where(source, entropy, 0.0)
        return objectives


def fit_pair(folder, **settings):
    torch.manual_seed(0)
    module = PairModule()
    data = DomainPair(
        Tiny(20, classes=3, mean=[0.03], std=[0.03]),
        Tiny(31, classes=3, first=20, mean=[0.1], std=[0.03]),
        batch_size=6,
    )
    tiny_trainer(folder, [], False, **settings).fit(module, datamodule=data)
    return [p.detach().clone() for p in module.parameters()]


def test_two_ranks_take_the_steps_of_one_process(two_ranks, tmp_path):
    alone = fit_pair(tmp_path)
    for rank in two_ranks(fit_pair, tmp_path, devices=2, strategy="ddp"):
        torch.testing.assert_close(rank, alone, atol=1e-6, rtol=1e-5)


# ---- refusals -----------------------------------------------------------------------------------


class Named(Tiny):
    def read(self):
        self.class_names = ["class 0", "class 1", "mouse", "class 3", "class 4"]
        return super().read()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: pair(Bags(Digits(), 5)), TypeError, "joins datamodules of images, and Bags is no"),
        (lambda: pair(target=WholeSet(Digits())), TypeError, "and WholeSet is none"),
        (lambda: pair(Tiny(augment=[torch.nn.ReLU()])), ValueError, "give it Tiny's augment"),
        (lambda: pair(target=Tiny(mixup=0.5)), ValueError, "drop Tiny's mixup"),
        (lambda: pair(Tiny(drop_last=True)), ValueError, "give it Tiny's drop_last"),
        (lambda: pair(target=Tiny(shards=2)), ValueError, "cannot be sharded: drop Tiny's shards"),
        (
            lambda: pair(target=Tiny(label_noise=LabelNoise())),
            ValueError,
            "must be true: drop its label_noise",
        ),
        (lambda: pair(held_out=1.0), ValueError, r"held_out must lie in \[0, 1\), got 1.0"),
        (lambda: pair(held_out=-0.1), ValueError, r"held_out must lie in \[0, 1\), got -0.1"),
        (lambda: pair(held_out=0.01), ValueError, "held_out=0.01 of 30 training rows leaves none"),
        (lambda: pair(image_size=0), ValueError, "image_size must be at least 1, got 0"),
        (lambda: pair(source_eval=-1), ValueError, "source_eval must be at least 0, got -1"),
        (lambda: pair(crop=5), ValueError, "crop=5 does not fit images of 4 x 4 pixels"),
        (lambda: pair(crop=0), ValueError, "crop=0 does not fit images"),
        (lambda: pair(Tiny(0)), ValueError, "The source has no images"),
        (lambda: pair(target=Tiny(0)), ValueError, "The target has no images"),
        (
            lambda: pair(target=Tiny(classes=4)),
            ValueError,
            "source has 5 classes and the target 4, which must be the same",
        ),
        (
            lambda: pair(target=Named()),
            ValueError,
            "Class 2 is 'class 2' in the source and 'mouse' in the target",
        ),
        (
            lambda: pair(target=Tiny(channels=2)),
            ValueError,
            "images of 1 channels and the target of 2; only 1 and 3 are joined",
        ),
        (
            lambda: pair(target=Tiny(size=6)),
            ValueError,
            "images of 4 x 4 pixels and the target of 6 x 6: set image_size",
        ),
        (lambda: pair(batch_size=7).train_dataloader(), ValueError, "must be even, .* got 7"),
    ],
)
def test_refusals(make, error, message):
    with pytest.raises(error, match=message) as found:
        make()
    assert "\n" not in str(found.value)


def test_a_source_without_labels_is_refused(tmp_path):
    write_domain(tmp_path / "a", 0, "png", "RGB")
    with pytest.raises(ValueError, match="The source needs labels, and ImageList has none"):
        pair(ImageList(str(tmp_path), image_size=4), ImageList(str(tmp_path), image_size=4))

from __future__ import annotations

import pytest
from PIL import Image

from datamodules import ImageFolder, InShop, OnlineProducts, Retrieval


def draw(path, gray=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (18, 18), gray).save(path)


def products(folder, test="3 7 2 b/3.jpg\n4 9 2 b/4.jpg\n"):
    header = "image_id class_id super_class_id path\n"
    (folder / "Ebay_train.txt").write_text(header + "1 1 1 a/1.jpg\n2 1 1 a/2.jpg\n5 3 1 a/5.jpg\n")
    (folder / "Ebay_test.txt").write_text(header + test)
    for k, name in enumerate(("a/1", "a/2", "a/5", "b/3", "b/4")):
        draw(folder / f"{name}.jpg", 20 * k)
    return OnlineProducts(str(folder), image_size=16, resize=None, channels=1)


def test_products_are_listed(tmp_path):
    data = products(tmp_path)
    data.setup("fit")
    assert data.num_classes == 2
    assert data.train_set.fields["label"].tolist() == [0, 0, 1]
    assert data.test_set.fields["label"].tolist() == [2, 3]
    assert data.val_set is None
    assert data.test_set[1]["image"].shape == (1, 16, 16)
    assert round(float(data.test_set[1]["image"].mean() * 255)) == 80


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("3 1 2 b/3.jpg\n", "the class 1 is in both lists"),
        ("3 b/3.jpg\n", "Ebay_test.txt, line 2: expected image_id class_id super_class_id path"),
        ("3 7 2 ../b/3.jpg\n", "which does not lie in"),
        ("", "names no images"),
    ],
)
def test_a_wrong_list_is_refused(tmp_path, test, message):
    with pytest.raises(ValueError, match=message):
        products(tmp_path, test).setup("fit")


def test_a_missing_image_is_named(tmp_path):
    data = products(tmp_path)
    (tmp_path / "b/3.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"b/3.jpg does not exist"):
        data.setup("fit")


def clothes(folder, third="id_3 gallery"):
    lines = ["4", "image_name item_id evaluation_status", "img/1.jpg id_1 train"]
    lines += ["img/2.jpg id_3 query", f"img/3.jpg {third}", "img/4.jpg id_2 train", ""]
    (folder / "Eval").mkdir()
    (folder / "Eval/list_eval_partition.txt").write_text("\n".join(lines))
    for k in range(1, 5):
        draw(folder / f"img/{k}.jpg", 20 * k)
    return InShop(str(folder), image_size=16, resize=None, channels=1)


def test_clothes_have_queries_and_a_gallery(tmp_path):
    data = Retrieval(clothes(tmp_path), images_per_class=1, batch_size=1, val_classes=0)
    data.setup("fit")
    assert data.num_classes == 2
    batch = data.test_set.batch([0, 1])
    assert batch["is_query"].tolist() == [True, False]
    assert batch["label"].tolist() == [2, 2]
    assert data.train_set.batch([0, 1])["label"].tolist() == [0, 1]


def test_a_part_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="names no images of the part gallery"):
        clothes(tmp_path, "id_3 query").setup("fit")


def test_an_article_of_both_parts_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the article id_1 is for training and test"):
        clothes(tmp_path, "id_1 gallery").setup("fit")


def test_the_layout_of_birds_is_halved(tmp_path):
    for k in range(4):
        for number in range(2):
            draw(tmp_path / f"images/{k + 1:03}.Bird/{number}.png")
        draw(tmp_path / f"images/{k + 1:03}.Bird/._0.png")
    folder = ImageFolder(str(tmp_path / "images"), image_size=16, val_size=0)
    data = Retrieval(folder, images_per_class=2, batch_size=2, val_classes=0, test_classes=0.5)
    with pytest.warns(UserWarning, match="Not all that lies in"):
        data.setup("fit")
    assert data.num_classes == 2
    assert data.train_set.rows.tolist() == [0, 1, 2, 3]
    assert data.test_set.rows.tolist() == [4, 5, 6, 7]

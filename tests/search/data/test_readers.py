"""Every layout, on small trees made here and on the packaged real sets; and what bad files give."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.data.folder_layouts import BadMetadataError, NoMasksError
from search.data.images import MaskSizeMismatchError, MaskValueError, MissingMaskError, UnreadableImageError
from search.data.layout_parts import AmbiguousNameError, EmptyListError, IncompleteSplitError
from search.data.readers import (
    READERS,
    MissingFolderError,
    UnknownLayoutError,
    UnknownReaderError,
    open_dataset,
    read_image,
    read_mask,
)
from search.errors import InputError

REAL = Path(__file__).resolve().parents[4] / "shared" / "datasets"


def save(path: Path, values: object, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, np.uint8))
    (image.convert(mode) if mode else image).save(path)
    return path


def picture(height: int = 20, width: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def mask(value: int, height: int = 20, width: int = 30) -> np.ndarray:
    values = np.zeros((height, width), np.uint8)
    values[5:9, 6:12] = value
    return values


def folders(root: Path, values: dict[str, int], images: str = "images", masks: str = "masks") -> Path:
    for name, value in values.items():
        save(root / images / f"{name}.png", picture())
        save(root / masks / f"{name}.png", mask(value))
    return root


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


# --- folders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "masks"),
    [("images", "masks"), ("image", "label"), ("img", "mask"), ("Images", "ground_truth"), ("imgs", "gt")],
)
def test_folders_by_their_usual_names(tmp_path, images, masks):
    dataset = open_dataset(folders(tmp_path, {"b": 1, "a": 1}, images, masks))
    assert dataset.reader == "folders"
    assert [s.name for s in dataset.samples] == ["a", "b"]
    assert dataset.classes == ("defect",)
    assert read_mask(dataset, dataset.samples[0]).sum() == 24


@pytest.mark.parametrize("ending", ["_mask", "_label", "_gt"])
def test_masks_named_after_their_image(tmp_path, ending):
    save(tmp_path / "images" / "a.jpg", picture())
    save(tmp_path / "masks" / f"a{ending}.png", mask(255))
    dataset = open_dataset(tmp_path)
    assert dataset.samples[0].mask == tmp_path / "masks" / f"a{ending}.png"


@pytest.mark.parametrize(
    ("values", "coding", "classes", "decoded"),
    [
        ({"a": 1, "b": 1}, "index", ("defect",), {"a": 1, "b": 1}),
        ({"a": 255, "b": 255}, "binary", ("defect",), {"a": 1, "b": 1}),
        ({"a": 1, "b": 3}, "index", ("class1", "class2", "class3"), {"a": 1, "b": 3}),
        ({"a": 0, "b": 0}, "index", ("defect",), {"a": 0, "b": 0}),
    ],
)
def test_coding_is_learnt_from_the_masks(tmp_path, values, coding, classes, decoded):
    dataset = open_dataset(folders(tmp_path, values))
    assert (dataset.mask_coding, dataset.classes) == (coding, classes)
    assert {s.name: int(read_mask(dataset, s).max()) for s in dataset.samples} == decoded


def test_one_defect_among_many_empty_masks_decides_the_coding(tmp_path):
    values = {f"n{k:03d}": 0 for k in range(60)} | {"n041": 255}
    assert open_dataset(folders(tmp_path, values)).mask_coding == "binary"


def test_meta_gives_classes_with_holes_labels_and_groups(tmp_path):
    folders(tmp_path, {"a": 1, "b": 3, "c": 1})
    write(tmp_path / "meta.csv", "name,class_index,class,tile_group", "a,1,pit,t0", "b,3,crack,t0", "c,1,pit,t1")
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("pit", "class2", "crack")
    assert [(s.label, s.group) for s in dataset.samples] == [(0, "t0"), (2, "t0"), (0, "t1")]


def test_binary_masks_take_the_class_from_meta(tmp_path):
    folders(tmp_path, {"a": 255, "b": 255})
    write(tmp_path / "meta.csv", "name,class_index,class", "a,1,pit", "b,2,crack")
    dataset = open_dataset(tmp_path)
    assert [int(read_mask(dataset, s).max()) for s in dataset.samples] == [1, 2]


def test_class_list_without_meta(tmp_path):
    write(folders(tmp_path, {"a": 1, "b": 2}) / "classes.txt", "background", "pit", "crack")
    assert open_dataset(tmp_path).classes == ("pit", "crack")


def test_empty_class_list_is_an_error(tmp_path):
    (folders(tmp_path, {"a": 1}) / "classes.txt").write_text("\n")
    with pytest.raises(EmptyListError, match=r"classes\.txt: names no class"):
        open_dataset(tmp_path)


def test_equal_images_join_their_groups(tmp_path):
    names = ["kos01_Part1", "kos01_Part2", "kos02_Part1", "kos03_Part1"]
    folders(tmp_path, dict.fromkeys(names, 1))
    shas = ["aa", "bb", "aa", "cc"]
    write(tmp_path / "meta.csv", "name,image_sha1", *(f"{n},{s}" for n, s in zip(names, shas, strict=True)))
    groups = [s.group for s in open_dataset(tmp_path).samples]
    assert groups == ["kos01", "kos01", "kos01", "kos03"]


def test_item_prefix_is_the_group_without_meta(tmp_path):
    dataset = open_dataset(folders(tmp_path, {"kos01_Part3": 1, "loose": 1}))
    assert [s.group for s in dataset.samples] == ["kos01", None]


def test_split_lists(tmp_path):
    folders(tmp_path, dict.fromkeys("abcdef", 1))
    write(tmp_path / "splits" / "train.txt", "a", "b.png", "# a comment", "", "c")
    write(tmp_path / "splits" / "test.txt", "images/d.png", "e", "f")
    write(tmp_path / "splits" / "train_grouped.txt", "a", "f")
    write(tmp_path / "splits" / "test_grouped.txt", "d")
    write(tmp_path / "splits" / "fold0_train.txt", "a", "f")
    write(tmp_path / "splits" / "fold0_test.txt", "b")
    write(tmp_path / "splits" / "excluded_empty_mask.txt", "f")
    write(tmp_path / "splits" / "notes_about_it.txt", "nothing")
    dataset = open_dataset(tmp_path)
    assert [s.name for s in dataset.samples] == list("abcde")
    assert {k: (v.train, v.test) for k, v in dataset.splits.items()} == {
        "given": (("a", "b", "c"), ("d", "e")),
        "grouped": (("a",), ("d",)),
        "fold0": (("a",), ("b",)),
    }


def test_list_without_counterpart(tmp_path):
    write(folders(tmp_path, {"a": 1}) / "splits" / "fold0_train.txt", "a")
    with pytest.raises(IncompleteSplitError, match=r"fold0_train\.txt"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("pattern", ["{part}/{kind}", "{kind}/{part}"])
def test_train_and_test_folders_are_a_given_split(tmp_path, pattern):
    for part, names in {"train": "abc", "test": "ad"}.items():
        for name in names:
            save(tmp_path / pattern.format(part=part, kind="images") / f"{name}.png", picture())
            save(tmp_path / pattern.format(part=part, kind="masks") / f"{name}.png", mask(1))
    dataset = open_dataset(tmp_path)
    # "a" occurs on both sides, so names carry their part.
    assert dataset.splits["given"].train == ("train_a", "train_b", "train_c")
    assert dataset.splits["given"].test == ("test_a", "test_d")
    assert all(read_mask(dataset, s).any() for s in dataset.samples)


def test_validation_joins_training_where_there_is_a_test(tmp_path):
    for part in ("train", "val", "test"):
        save(tmp_path / "images" / part / f"{part}0.png", picture())
        save(tmp_path / "masks" / part / f"{part}0.png", mask(1))
    split = open_dataset(tmp_path).splits["given"]
    assert (split.train, split.test) == (("train0", "val0"), ("test0",))


def test_no_masks(tmp_path):
    save(tmp_path / "images" / "a.png", picture())
    (tmp_path / "masks").mkdir()
    with pytest.raises(NoMasksError, match=r"none of the 1 images has a mask; a\.png expects .*masks.a\.png"):
        open_dataset(tmp_path)


def test_two_images_of_one_name(tmp_path):
    folders(tmp_path, {"a": 1})
    save(tmp_path / "images" / "a.jpg", picture())
    with pytest.raises(AmbiguousNameError, match=r"a\.png: same name as a\.jpg"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("a,zero,pit", "row 3: class_index 'zero'"),
        ("a,0,pit", "row 3: class_index '0'"),
        ("a,1,pat", "row 3: class_index 1 is pat"),
    ],
)
def test_bad_metadata_names_the_row(tmp_path, row, complaint):
    write(folders(tmp_path, {"a": 1, "b": 1}) / "meta.csv", "name,class_index,class", "b,1,pit", row)
    with pytest.raises(BadMetadataError, match=complaint):
        open_dataset(tmp_path)


def test_metadata_without_names(tmp_path):
    write(folders(tmp_path, {"a": 1}) / "meta.csv", "file,class_index", "a,1")
    with pytest.raises(BadMetadataError, match="needs a column name, has file, class_index"):
        open_dataset(tmp_path)


# --- other layouts -----------------------------------------------------------------------------------------


def test_voc(tmp_path):
    for name, value in {"a": 1, "b": 2, "c": 1, "d": 1}.items():
        save(tmp_path / "JPEGImages" / f"{name}.jpg", picture())
        values = mask(value)
        values[0, :] = 255
        image = Image.fromarray(values).convert("P")
        image.putpalette([k for v in range(256) for k in (v, 255 - v, v // 2)])
        (tmp_path / "SegmentationClass").mkdir(exist_ok=True)
        image.save(tmp_path / "SegmentationClass" / f"{name}.png")
    save(tmp_path / "JPEGImages" / "detection_only.jpg", picture())
    lists = tmp_path / "ImageSets" / "Segmentation"
    write(lists / "train.txt", "a", "b")
    write(lists / "val.txt", "c", "d")
    write(lists / "trainval.txt", "a", "b", "c", "d")
    dataset = open_dataset(tmp_path)
    assert (dataset.reader, dataset.classes, dataset.mask_coding) == (
        "voc",
        ("class1", "class2"),
        "index-void",
    )
    assert [s.name for s in dataset.samples] == list("abcd")
    assert dataset.splits["given"].train == ("a", "b")
    assert dataset.splits["given"].test == ("c", "d")
    assert np.array_equal(read_mask(dataset, dataset.samples[1]), mask(2))


def test_voc_with_joined_training_list(tmp_path):
    for name in "abc":
        save(tmp_path / "JPEGImages" / f"{name}.jpg", picture())
        save(tmp_path / "SegmentationClass" / f"{name}.png", mask(255))
    lists = tmp_path / "ImageSets" / "Segmentation"
    write(lists / "trainval.txt", "a", "b")
    write(lists / "test.txt", "c")
    dataset = open_dataset(tmp_path)
    assert dataset.mask_coding == "binary"
    assert dataset.splits["given"].train == ("a", "b")


def test_kolektor(tmp_path):
    for item in ("kos01", "kos02", "kos26"):
        for part, value in (("Part0", 0), ("Part1", 2)):
            save(tmp_path / item / f"{part}.jpg", picture())
            label = Image.fromarray(mask(value)).convert("P")
            label.putdata(mask(value).ravel().tolist())
            label.save(tmp_path / item / f"{part}_label.bmp")
    dataset = open_dataset(tmp_path)
    assert dataset.reader == "kolektorsdd"
    assert [s.name for s in dataset.samples][:2] == ["kos01_Part0", "kos01_Part1"]
    assert [s.group for s in dataset.samples][::2] == ["kos01", "kos02", "kos01"]
    assert np.array_equal(read_mask(dataset, dataset.samples[1]), mask(1))
    assert not read_mask(dataset, dataset.samples[0]).any()


def test_magnetic_tiles(tmp_path):
    for kind in ("Blowhole", "Uneven", "Free"):
        values = mask(255)
        values[4, 6:12] = 90  # the anti-aliased edge
        save(tmp_path / f"MT_{kind}" / "Imgs" / "exp1_num_3.jpg", picture())
        save(tmp_path / f"MT_{kind}" / "Imgs" / "exp1_num_3.png", values if kind != "Free" else mask(0))
    dataset = open_dataset(tmp_path)
    by_name = {s.name: s for s in dataset.samples}
    assert dataset.reader == "mt"
    assert set(by_name) == {"Blowhole_exp1_num_3", "Free_exp1_num_3", "Uneven_exp1_num_3"}
    assert {s.group for s in dataset.samples} == {None}
    assert by_name["Free_exp1_num_3"].mask is None
    assert np.array_equal(read_mask(dataset, by_name["Uneven_exp1_num_3"]), mask(5))
    assert read_mask(dataset, by_name["Free_exp1_num_3"]).shape == (20, 30)


def test_neu_seg(tmp_path):
    for part, names in {"training": ("000001", "000002"), "test": ("000001",)}.items():
        for name in names:
            save(tmp_path / "images" / part / f"{name}.jpg", picture())
            save(tmp_path / "annotations" / part / f"{name}.png", mask(3))
    dataset = open_dataset(tmp_path)
    assert (dataset.reader, dataset.classes) == ("neu_seg", ("inclusion", "patches", "scratches"))
    assert dataset.splits["given"].train == ("training_000001", "training_000002")
    assert dataset.splits["given"].test == ("test_000001",)
    assert np.array_equal(read_mask(dataset, dataset.samples[0]), mask(3))


@pytest.mark.parametrize("joined", [True, False])
def test_rsdds(tmp_path, joined):
    kinds = ("Type-I RSDDs dataset", "Type-II RSDDs dataset")
    for kind in kinds:
        save(tmp_path / kind / "Rail surface images" / "rail_1.jpg", picture(100, 16))
        truth = tmp_path / kind / "GroundTruth" / "rail_1.jpg"
        truth.parent.mkdir(parents=True)
        Image.fromarray(mask(255, 100, 16)).save(truth, quality=95)
    dataset = open_dataset(tmp_path if joined else tmp_path / kinds[1])
    assert dataset.reader == "rsdds"
    assert [s.name for s in dataset.samples] == (["type1_rail_1", "type2_rail_1"] if joined else ["rail_1"])
    assert 20 <= read_mask(dataset, dataset.samples[0]).sum() <= 30  # JPEG has blurred the edge


def test_dagm(tmp_path):
    for kind in ("Class1", "Class10"):
        for part in ("Train", "Test"):
            save(tmp_path / kind / part / "0576.PNG", picture())
            save(tmp_path / kind / part / "0577.PNG", picture())
            save(tmp_path / kind / part / "Label" / "0576_label.PNG", mask(255))
    dataset = open_dataset(tmp_path)
    by_name = {s.name: s for s in dataset.samples}
    assert (dataset.reader, dataset.classes, len(by_name)) == ("dagm", ("class1", "class10"), 8)
    assert np.array_equal(read_mask(dataset, by_name["Class10_Test_0576"]), mask(2))
    assert not read_mask(dataset, by_name["Class10_Test_0577"]).any()
    assert len(dataset.splits["given"].train) == len(dataset.splits["given"].test) == 4


@pytest.mark.parametrize("nested", [True, False])
def test_msd(tmp_path, nested):
    for label, kind in enumerate(("oil", "scratch", "stain"), start=1):
        save(tmp_path / kind / f"{kind}_1.jpg", picture())
        folder = tmp_path / "ground_truth" / (kind if nested else "")
        save(folder / f"{kind}_1.png", mask(label if nested else 255))
    save(tmp_path / "good" / "1.jpg", picture())
    dataset = open_dataset(tmp_path)
    assert (dataset.reader, dataset.classes) == ("msd", ("oil", "scratch", "stain"))
    assert [int(read_mask(dataset, s).max()) for s in dataset.samples] == [0, 1, 2, 3]
    assert dataset.samples[0].name == "good_1"


def test_a_name_forces_a_reader(tmp_path):
    for name in "ab":
        save(tmp_path / "JPEGImages" / f"{name}.jpg", picture())
        save(tmp_path / "SegmentationClass" / f"{name}.png", mask(1))
    assert open_dataset(tmp_path).reader == "voc"
    assert open_dataset(tmp_path, reader="folders").reader == "folders"
    with pytest.raises(UnknownLayoutError, match=r"is not laid out as dagm .*it holds JPEGImages/"):
        open_dataset(tmp_path, reader="dagm")
    with pytest.raises(UnknownReaderError, match=r"'folder' is unknown \(did you mean folders\?\)"):
        open_dataset(tmp_path, reader="folder")


def test_unknown_layout_says_what_is_there_and_what_is_accepted(tmp_path):
    save(tmp_path / "pictures" / "a.png", picture())
    save(tmp_path / "loose.png", picture())
    write(tmp_path / "notes.md", "x")
    with pytest.raises(UnknownLayoutError) as error:
        open_dataset(tmp_path)
    message = str(error.value)
    assert "it holds pictures/, 1 images, notes.md" in message
    assert all(f"{name}: " in message for name in READERS)
    assert "\n" not in message


def test_unknown_layout_points_at_a_data_set_inside(tmp_path):
    folders(tmp_path / "inner", {"a": 1})
    with pytest.raises(UnknownLayoutError, match=r"did you mean .*inner\?"):
        open_dataset(tmp_path)


def test_missing_folder(tmp_path):
    with pytest.raises(MissingFolderError, match="nowhere: no such folder"):
        open_dataset(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(MissingFolderError, match="file: not a folder"):
        open_dataset(tmp_path / "file")


# --- files -------------------------------------------------------------------------------------------------


def test_value_beyond_the_classes(tmp_path):
    folders(tmp_path, {"a": 1, "b": 7})
    write(tmp_path / "classes.txt", "pit", "crack")
    dataset = open_dataset(tmp_path)
    with pytest.raises(MaskValueError, match=r"masks.b\.png: value 7 at 24 px .* 0 background, 1 pit, 2 crack"):
        read_mask(dataset, dataset.samples[1])


def test_masks_of_two_codings_are_not_read_as_empty(tmp_path):
    dataset = open_dataset(folders(tmp_path, {"a": 255, "b": 1}))
    with pytest.raises(MaskValueError, match=r"b\.png: largest value is 1"):
        read_mask(dataset, dataset.samples[1])


def test_one_stray_mask_is_named_and_does_not_decide_for_the_others(tmp_path):
    dataset = open_dataset(folders(tmp_path, {"a": 1, "b": 2, "c": 255, "d": 1}))
    assert (dataset.mask_coding, dataset.classes) == ("index", ("class1", "class2"))
    with pytest.raises(MaskValueError, match=r"c\.png: value 255 at 24 px"):
        read_mask(dataset, dataset.samples[2])


def test_mask_of_another_size(tmp_path):
    folders(tmp_path, {"a": 1, "b": 1})
    save(tmp_path / "masks" / "b.png", mask(1, 20, 29))
    dataset = open_dataset(tmp_path)
    with pytest.raises(MaskSizeMismatchError, match=r"b\.png: mask is 29x20 px, but its image b\.png is 30x20"):
        read_mask(dataset, dataset.samples[1])


def test_missing_mask(tmp_path):
    folders(tmp_path, {"a": 1})
    save(tmp_path / "images" / "b.png", picture())
    dataset = open_dataset(tmp_path)
    with pytest.raises(MissingMaskError, match=r"b\.png: no mask; expected at .*masks.b\.png"):
        read_mask(dataset, dataset.samples[1])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_truncated_image(tmp_path, suffix):
    folders(tmp_path, {"a": 1})
    path = save(tmp_path / "images" / f"b{suffix}", picture(200, 300))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    save(tmp_path / "masks" / "b.png", mask(1, 200, 300))
    sample = open_dataset(tmp_path).samples[1]
    with pytest.raises(UnreadableImageError, match=rf"b\{suffix}: truncated or damaged image"):
        read_image(sample, "grey")


def test_files_that_are_no_images(tmp_path):
    folders(tmp_path, {"a": 1, "b": 1, "c": 1, "d": 1})
    (tmp_path / "images" / "b.png").write_bytes(b"")
    (tmp_path / "images" / "c.png").write_text("not an image")
    (tmp_path / "masks" / "d.png").write_bytes(b"")
    dataset = open_dataset(tmp_path)
    with pytest.raises(UnreadableImageError, match=r"b\.png: the file is empty"):
        read_image(dataset.samples[1], "grey")
    with pytest.raises(UnreadableImageError, match=r"c\.png: not a readable image"):
        read_image(dataset.samples[2], "grey")
    with pytest.raises(UnreadableImageError, match=r"masks.d\.png: the file is empty"):
        read_mask(dataset, dataset.samples[3])
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(UnreadableImageError, match=r"a\.png: no such file"):
        read_image(dataset.samples[0], "grey")


def test_every_named_error_is_an_input_error():
    for error in (
        UnreadableImageError,
        MaskValueError,
        UnknownLayoutError,
        NoMasksError,
        IncompleteSplitError,
    ):
        assert issubclass(error, InputError)


def test_colours(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    save(tmp_path / "images" / "a.png", colour)
    save(tmp_path / "masks" / "a.png", mask(255))
    sample = open_dataset(tmp_path).samples[0]
    assert np.array_equal(read_image(sample, "rgb"), colour)
    grey = read_image(sample, "grey")
    assert (grey.shape, grey.dtype) == ((20, 30, 1), np.uint8)
    expected = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[:, :, 0] - expected).max() <= 1


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    (tmp_path / "images").mkdir()
    values = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "images" / "a.png")
    save(tmp_path / "masks" / "a.png", mask(1))
    grey = read_image(open_dataset(tmp_path).samples[0], "grey")[:, :, 0]
    assert np.array_equal(grey, np.rint(values / 257).astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "1"])
def test_grey_masks_in_other_modes(tmp_path, mode):
    save(tmp_path / "images" / "a.png", picture())
    save(tmp_path / "masks" / "a.png", mask(255), mode)
    dataset = open_dataset(tmp_path)
    assert np.array_equal(read_mask(dataset, dataset.samples[0]), mask(1))


def test_a_colour_picture_is_no_mask(tmp_path):
    folders(tmp_path, {"a": 1, "b": 1})
    save(tmp_path / "masks" / "b.png", np.dstack([mask(255), mask(0), mask(0)]))
    dataset = open_dataset(tmp_path)
    with pytest.raises(UnreadableImageError, match=r"b\.png: a colour picture cannot be a mask"):
        read_mask(dataset, dataset.samples[1])


# --- real sets ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no data sets at {REAL}")
@pytest.mark.parametrize(
    ("name", "classes", "count", "splits", "groups"),
    [
        (
            "KSDD",
            ("defect",),
            52,
            {"given": (35, 17), "grouped": (36, 16), "fold0": (34, 18), "fold1": (34, 18), "fold2": (36, 16)},
            48,
        ),
        (
            "MT",
            ("Blowhole", "Break", "Crack", "Fray", "Uneven"),
            388,  # 392 less the 4 of excluded_empty_mask.txt
            {"given": (271, 117), "grouped": (269, 119)},
            61,
        ),
        ("SD900", ("inclusion", "patches", "scratches"), 900, {"given": (630, 270)}, 892),
    ],
)
def test_real_sets(name, classes, count, splits, groups):
    dataset = open_dataset(REAL / name)
    assert (dataset.classes, len(dataset.samples), dataset.mask_coding) == (classes, count, "index")
    assert {k: (len(v.train), len(v.test)) for k, v in dataset.splits.items()} == splits
    assert len({s.group for s in dataset.samples}) == groups
    masks = [read_mask(dataset, s) for s in dataset.samples]
    assert all(m.any() for m in masks)
    if name != "KSDD":
        assert all(int(m.max()) == s.label + 1 for m, s in zip(masks, dataset.samples, strict=True))


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no data sets at {REAL}")
def test_duplicate_items_of_kolektor_are_one_group():
    by_name = {s.name: s.group for s in open_dataset(REAL / "KSDD").samples}
    for one, other in (("kos01", "kos26"), ("kos27", "kos34")):
        assert {g for n, g in by_name.items() if n.startswith(one)} == {
            g for n, g in by_name.items() if n.startswith(other)
        }

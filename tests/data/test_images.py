"""Images: readers give back what was written and refuse what is damaged; subtasks have the images they say."""

import gzip
import hashlib
import io
import tarfile

import numpy as np
import pytest
import torch

from maskscope.core.objectives import accuracy, cross_entropy
from maskscope.data import cifar10_archive, mnist
from maskscope.data.cifar10 import ClassPairs, ClassRemoval
from maskscope.data.cifar10_archive import CLASSES, read_records
from maskscope.data.images import Scaling, measured, rows_of, shifted_and_mirrored
from maskscope.data.mnist import PermutedMNIST, read_idx
from maskscope.locate import SETTING
from pictures import REAL, cifar_members, idx, needs_data, write_cifar, write_mnist


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """A small MNIST, named by the setting."""
    monkeypatch.setenv(SETTING, str(tmp_path))
    return write_mnist(tmp_path)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A small CIFAR-10, named by the setting."""
    monkeypatch.setenv(SETTING, str(tmp_path))
    write_cifar(tmp_path)
    return read_records(tmp_path / "cifar10" / "cifar-10-binary-subset.tar.xz")


@pytest.fixture
def real(monkeypatch):
    """The real files, named by the setting."""
    monkeypatch.setenv(SETTING, str(REAL))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("file", ["train", "test"])
def test_mnist_comes_back_as_written(tmp_path, packed, file):
    images, labels = write_mnist(tmp_path, packed=packed)[file]
    assert np.array_equal(mnist.images(file, tmp_path).numpy(), images.reshape(-1, 784))
    assert np.array_equal(mnist.labels(file, tmp_path).numpy(), labels)


def test_a_gzip_file_is_known_by_its_content(tmp_path):
    (tmp_path / "images.gz").write_bytes(idx(np.ones((2, 3))))
    (tmp_path / "images").write_bytes(gzip.compress(idx(np.ones((2, 3)))))
    assert torch.equal(read_idx(tmp_path / "images.gz", (3,)), read_idx(tmp_path / "images", (3,)))


WHOLE = idx(np.arange(24).reshape(2, 3, 4))
PACKED = gzip.compress(WHOLE, mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with nothing"),
        (b"<html>not found</html>", "starts with 3c68746d, expected 00000803"),
        (idx(np.ones(6)), "starts with 00000801, expected 00000803"),
        (WHOLE[:10], "a header of 16 bytes"),
        (WHOLE[:-1], "has 39 bytes, its header says 40"),
        (WHOLE + b"\0", "has 41 bytes, its header says 40"),
        (idx(np.ones((0, 3, 4))), "holds no examples"),
        (idx(np.ones((2, 4, 4))), r"examples of size \(4, 4\), expected \(3, 4\)"),
        (PACKED[:-12], "not a whole gzip file"),
        (PACKED[:12] + b"\xff" * 30, "not a whole gzip file"),
        (PACKED[:-8] + b"\0" * 8, "not a whole gzip file"),
    ],
    ids=[
        "empty",
        "a page",
        "labels",
        "header",
        "short",
        "long",
        "none",
        "other sizes",
        "gzip short",
        "gzip damaged",
        "gzip checksum",
    ],
)
def test_a_damaged_or_foreign_idx_file_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        read_idx(path, (3, 4))
    assert str(raised.value).startswith(str(path))


def test_mnist_refuses_labels_over_nine_and_files_that_do_not_belong_together(digits, tmp_path):
    path = tmp_path / "mnist" / "t10k-labels-idx1-ubyte"
    path.write_bytes(idx(np.array([1, 10])))
    with pytest.raises(ValueError, match="has the label 10"):
        mnist.labels("test")
    read_idx.cache_clear()
    path.write_bytes(idx(np.ones(3)))
    with pytest.raises(ValueError, match=r"do not belong together: 20 images in .*3 labels"):
        PermutedMNIST().tests("test")


def test_permutations_are_the_published_ones(digits):
    data = PermutedMNIST()
    images, labels = digits["test"]
    scale = measured(mnist.images("train").unsqueeze(1))
    for permutation in (0, 1, 10):
        order = np.random.RandomState(permutation).permutation(784) if permutation else np.arange(784)
        expected = (images.reshape(-1, 784)[:, order] - scale.mean.item()) / scale.deviation.item()
        (inputs, targets), *others = data.tests("test", permutation)
        assert not others
        np.testing.assert_allclose(inputs.numpy(), expected, rtol=1e-5, atol=1e-6)
        assert np.array_equal(targets.numpy(), labels)
    with pytest.raises(KeyError, match="no permutation 11; there are 0 to 10"):
        data.order(11)


def test_the_training_file_is_split_as_published(digits):
    kept = np.random.RandomState(0xC1CAFA52).rand(50) > 0.2
    data = PermutedMNIST()
    for split, rows in (("train", kept), ("valid", ~kept)):
        found = torch.cat([targets for _, targets in data.tests(split, size=7)])
        assert np.array_equal(found.numpy(), digits["train"][1][rows])
    limited = PermutedMNIST(train=5).tests("train")
    assert np.array_equal(limited[0][1].numpy(), digits["train"][1][kept][:5])


def test_batches_of_digits_are_a_function_of_seed_and_step_and_ready_for_the_objectives(digits):
    batches = PermutedMNIST().batches("train", 16, 3, permutation=2)
    inputs, targets = batches(5)
    assert torch.equal(inputs, PermutedMNIST().batches("train", 16, 3, 2)(5)[0])
    assert not torch.equal(inputs, batches(6)[0])
    model = torch.nn.Linear(784, 10)
    assert cross_entropy(model, (inputs, targets)).isfinite()
    assert accuracy(model, (inputs, targets)).shape == (16,)


@pytest.mark.parametrize("packed", ["gz", "xz", ""])
def test_cifar_comes_back_as_written(tmp_path, packed):
    members = cifar_members()
    found = read_records(write_cifar(tmp_path, members, packed))
    records = np.frombuffer(b"".join(members[f"data_batch_{i}.bin"] for i in range(1, 6)), np.uint8).reshape(-1, 3073)
    assert np.array_equal(found["train"].labels.numpy(), records[:, 0])
    assert np.array_equal(found["train"].images.numpy().reshape(-1, 3072), records[:, 1:])
    assert (len(found["train"].labels), len(found["test"].labels)) == (200, 60)
    assert cifar10_archive.images("test", tmp_path).images.shape == (60, 3, 32, 32)


def without(name):
    return {key: content for key, content in cifar_members().items() if key != name}


BAD = bytes([10]) + bytes(3072)


@pytest.mark.parametrize("packed", ["gz", "xz", ""])
@pytest.mark.parametrize(
    ("members", "message"),
    [
        (without("data_batch_3.bin"), "lacks data_batch_3.bin"),
        (without("batches.meta.txt"), "lacks batches.meta.txt"),
        (cifar_members() | {"test_batch.bin": b"\0" * 3072}, r"test_batch.bin: 3,072 bytes are no whole number"),
        (cifar_members() | {"test_batch.bin": b""}, r"test_batch.bin: 0 bytes are no whole number"),
        (cifar_members() | {"data_batch_2.bin": BAD}, r"data_batch_2.bin: a label of 10, expected 0 to 9"),
        (cifar_members() | {"batches.meta.txt": b"apple\nbear\n"}, r"the classes are \('apple', 'bear'\)"),
    ],
    ids=["member", "names", "size", "empty", "label", "classes"],
)
def test_a_wrong_archive_is_refused_by_name_and_member(tmp_path, packed, members, message):
    path = write_cifar(tmp_path, members, packed)
    with pytest.raises(ValueError, match=message) as raised:
        read_records(path)
    assert str(raised.value).startswith(str(path))


@pytest.mark.parametrize("packed", ["gz", "xz"])
@pytest.mark.parametrize("damage", ["cut", "altered", "foreign"])
def test_a_damaged_archive_is_refused(tmp_path, packed, damage):
    path = write_cifar(tmp_path, packed=packed)
    content = bytearray(path.read_bytes())
    if damage == "altered":
        content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    path.write_bytes({"cut": content[: len(content) // 2], "altered": content, "foreign": b"<html>"}[damage])
    with pytest.raises(ValueError, match="is not a whole archive"):
        read_records(path)


def test_names_in_an_archive_are_never_paths_to_write_to(tmp_path):
    path = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in cifar_members().items():
            entry = tarfile.TarInfo(f"../../{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert len(read_records(path)["test"].labels) == 60
    assert list(tmp_path.rglob("*")) == [path]


@pytest.mark.parametrize("validation", ["split", "test"])
def test_splits_of_cifar_are_the_published_ones(pictures, validation):
    data = ClassRemoval(validation=validation)
    kept = torch.from_numpy(np.random.RandomState(0xC1CAFA52).rand(200) > 0.2)
    train, test = pictures["train"].labels.long(), pictures["test"].labels.long()
    expected = {
        "split": {"train": train[kept], "valid": train[~kept], "test": test},
        "test": {"train": train, "valid": test, "test": test},
    }[validation]
    for split, labels in expected.items():
        assert torch.equal(torch.cat([targets for _, targets in data.tests(split, size=33)]), labels)


@pytest.mark.parametrize("removed", range(10))
def test_a_removed_class_never_occurs(pictures, removed):
    data = ClassRemoval()
    subtask = data.subtasks[removed]
    assert subtask == f"without {CLASSES[removed]}"
    for _, targets in (data.batches("train", 500, 0, subtask)(2), *data.tests("valid", subtask)):
        assert set(targets.tolist()) == set(range(10)) - {removed}
    assert {int(t) for _, targets in data.tests("valid", CLASSES[removed]) for t in targets} == {removed}


@pytest.mark.parametrize("data", [ClassRemoval(), ClassRemoval(augmented=True, validation="test"), ClassPairs()])
def test_batches_of_pictures_are_a_function_of_seed_and_step(pictures, data):
    subtask = data.subtasks[0]
    first, again, later = (data.batches("train", 8, 3, subtask)(step) for step in (5, 5, 6))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], later[0])
    assert cross_entropy(lambda x: x.flatten(1)[:, :10], first).isfinite()


@pytest.mark.parametrize("scaling", ["dataset", "resnet", "imagenet"])
def test_pixels_are_scaled_by_channel(pictures, scaling):
    pixels = pictures["train"].images.double()
    mean, deviation = {
        "dataset": (pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))),
        "resnet": (torch.tensor([0.4914, 0.4822, 0.4465]) * 255, torch.tensor([0.2023, 0.1994, 0.2010]) * 255),
        "imagenet": (torch.tensor([0.485, 0.456, 0.406]) * 255, torch.tensor([0.229, 0.224, 0.225]) * 255),
    }[scaling]
    expected = (pixels - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    found = ClassRemoval(scaling=scaling, validation="test").tests("train", size=200)[0][0]
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-5)


def test_crops_and_flips_are_of_the_right_image_and_all_occur():
    images = torch.from_numpy(np.random.default_rng(0).integers(1, 256, size=(3, 3, 32, 32)).astype(np.uint8))
    padded = torch.zeros(3, 3, 40, 40, dtype=torch.uint8)
    padded[:, :, 4:36, 4:36] = images
    which, found = torch.arange(2000) % 3, set()
    made = shifted_and_mirrored(images[which], np.random.default_rng(1))
    crops = {
        crop.numpy().tobytes(): (source, top, left, mirrored)
        for source in range(3)
        for top in range(9)
        for left in range(9)
        for mirrored in (False, True)
        for window in (padded[source, :, top : top + 32, left : left + 32],)
        for crop in (window.flip(2) if mirrored else window,)
    }
    assert len(crops) == 3 * 9 * 9 * 2
    for source, image in zip(which.tolist(), made, strict=True):
        origin = crops[image.numpy().tobytes()]
        assert origin[0] == source
        found.add(origin[1:])
    assert len(found) == 9 * 9 * 2


def test_only_training_batches_are_augmented(pictures):
    plain, varied = ClassRemoval(), ClassRemoval(augmented=True)
    for split in ("valid", "test"):
        assert torch.equal(plain.batches(split, 8, 0)(0)[0], varied.batches(split, 8, 0)(0)[0])
    assert torch.equal(plain.tests("train")[0][0], varied.tests("train")[0][0])
    (one, labels), (other, same) = (data.batches("train", 8, 0)(0) for data in (plain, varied))
    assert torch.equal(labels, same)
    assert not torch.equal(one, other)


def test_outcomes_are_the_classes_that_images_are_taken_for(pictures):
    data = ClassRemoval()
    (batch,) = data.tests("test", size=60)
    network = lambda x: torch.nn.functional.one_hot(torch.arange(len(x)) % 10, 10).float()  # noqa: E731
    assert torch.equal(data.outcome()(network, batch), network(batch[0]))
    assert data.outcomes == data.tested == CLASSES
    assert data.metric("cat")(network, batch).mean() == 1.0  # the labels were written in that order


def test_pairs_are_ordered_drawn_without_repeats_and_show_their_two_classes_only(pictures):
    every = ClassPairs(count=90)
    assert len(set(every.subtasks)) == 90
    assert all(len(set(every.classes(pair))) == 2 for pair in every.subtasks)
    data = ClassPairs()
    assert len(data.subtasks) == 10
    assert data.subtasks == ClassPairs().subtasks != ClassPairs(seed=1).subtasks
    assert data.tested == (*data.subtasks, "all classes")
    for pair in data.subtasks:
        names = set(pair.split(", "))
        for _, targets in (data.batches("train", 200, 0, pair)(1), *data.tests("valid", pair)):
            assert {CLASSES[label] for label in targets.tolist()} == names
    with pytest.raises(ValueError, match="count must be 1 to 90, got 91"):
        ClassPairs(count=91)


@pytest.mark.parametrize("data", [ClassRemoval(), ClassPairs()])
def test_an_unknown_class_is_refused(data):
    for use in (data.objective, data.metric, lambda subtask: data.tests("valid", subtask)):
        with pytest.raises(KeyError, match="no subtask 'unicorn'"):
            use("unicorn")


def test_measures_over_many_chunks_agree_with_numpy():
    images = torch.from_numpy(np.random.default_rng(0).integers(256, size=(2500, 2, 5, 3)).astype(np.uint8))
    mean, deviation = measured(images)
    np.testing.assert_allclose(mean.numpy(), images.numpy().mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(deviation.numpy(), images.numpy().std((0, 2, 3), ddof=1), rtol=1e-4)
    scaled = Scaling(mean, deviation)(images)
    assert scaled.mean((0, 2, 3)).abs().max() < 1e-4


@needs_data
def test_the_real_digits_are_mnist(real):
    md5 = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }
    for name, expected in md5.items():
        plain, packed = REAL / "mnist" / name, REAL / "mnist" / f"{name}.gz"
        content = plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())
        assert hashlib.md5(content, usedforsecurity=False).hexdigest() == expected
    assert [len(mnist.images(file)) for file in ("train", "test")] == [60_000, 10_000]
    assert mnist.labels("test").bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    inputs, _ = PermutedMNIST(train=1000).batches("train", 4, 0, permutation=0)(0)
    assert inputs.min() == pytest.approx(-33.3184 / 78.5675, abs=1e-4)
    assert [len(rows_of(split, 60_000)) for split in ("train", "valid")] == [48_017, 11_983]
    for too_few in (0, 2):
        with pytest.raises(ValueError, match=f"of {too_few} training images a fifth cannot be held out"):
            rows_of("valid", too_few)


@needs_data
def test_the_real_pictures_are_balanced(real):
    for file in ("train", "test"):
        labels = cifar10_archive.images(file).labels
        assert len(set(labels.bincount(minlength=10).tolist())) == 1
    scale = cifar10_archive.scaling_of_training_images()
    torch.testing.assert_close(scale.mean, torch.tensor([125.3, 123.0, 113.9]), atol=0.5, rtol=0)
    torch.testing.assert_close(scale.deviation, torch.tensor([63.0, 62.1, 66.7]), atol=0.5, rtol=0)

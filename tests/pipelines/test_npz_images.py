"""Images inside .npz files: the bytes of one, wherever the file lies and however it is packed, and what can fail."""

from __future__ import annotations

import copy
import io
import os
import secrets
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from pipelines.folders import Folder
from pipelines.npz_images import DamagedNpzError, NpzImages

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
SAVE = {"stored": np.savez, "deflated": np.savez_compressed}


@pytest.fixture(params=SAVE)
def save(request: pytest.FixtureRequest) -> Callable[..., None]:
    return SAVE[request.param]


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    if request.param == "local":
        yield Folder.at(str(tmp_path))
    else:
        folder = Folder.at(f"memory://{secrets.token_hex(4)}")
        yield folder
        folder.remove()


def packed(save: Callable[..., None], **arrays: np.ndarray) -> bytes:
    content = io.BytesIO()
    save(content, **arrays)
    return content.getvalue()


def test_an_image_comes_out_as_a_npy_file_of_its_own(folder: Folder, save: Callable[..., None]) -> None:
    colour = np.random.default_rng(1).integers(0, 256, (3, 5, 6, 3), dtype=np.uint8)
    folder.write("chestmnist.npz", packed(save, train_images=IMAGES, test_images=colour))
    images = NpzImages(folder)
    for index in (0, 17, 39):
        assert np.array_equal(np.load(io.BytesIO(images.read(f"chestmnist.npz/train/{index}"))), IMAGES[index])
    assert np.array_equal(np.load(io.BytesIO(images.read("chestmnist.npz/test/2"))), colour[2])


def test_the_same_pixels_have_the_same_bytes_however_they_are_packed(tmp_path: Path) -> None:
    for name, save in SAVE.items():
        (tmp_path / f"{name}.npz").write_bytes(packed(save, val_images=IMAGES))
    first, second = (NpzImages(Folder.at(str(tmp_path))).read(f"{name}.npz/val/3") for name in SAVE)
    assert first == second
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (28, 28), }"
    # NEP 1: magic, version, length of the header, which ends at a multiple of 64 bytes.
    assert first == b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.ljust(117) + b"\n" + IMAGES[3].tobytes()


def test_of_a_stored_array_nothing_is_read_but_the_image(tmp_path: Path) -> None:
    content = packed(np.savez, train_images=IMAGES)
    where = content.index(IMAGES[5].tobytes())
    # Had the whole member been read, its checksum would tell.
    (tmp_path / "a.npz").write_bytes(content[:where] + bytes(28 * 28) + content[where + 28 * 28 :])
    read = NpzImages(Folder.at(str(tmp_path))).read("a.npz/train/6")
    assert np.array_equal(np.load(io.BytesIO(read)), IMAGES[6])


@pytest.mark.parametrize(
    "path",
    ["a.npz/train/40", "a.npz/val/0", "b.npz/train/0", "a.npz/train/-1", "a.npz/train", "a.npz", "../a.npz/train/0"],
)
def test_what_is_not_there_is_told_as_missing(tmp_path: Path, save: Callable[..., None], path: str) -> None:
    (tmp_path / "a.npz").write_bytes(packed(save, train_images=IMAGES))
    images = NpzImages(Folder.at(str(tmp_path)))
    images.prepare([path])
    with pytest.raises(FileNotFoundError):
        images.read(path)


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(byte ^ 0xFF for byte in content[middle : middle + 64]) + content[middle + 64 :]


def with_member(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("train_images.npy", content)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a zip file",
        packed(np.savez, train_images=IMAGES)[:-2000],
        packed(np.savez_compressed, train_images=IMAGES)[:-40],
        flipped(packed(np.savez_compressed, train_images=IMAGES)),
        with_member(b"no array"),
        with_member(b"\x93NUMPY\x01\x00\x76\x00{'descr'"),
        packed(np.savez, train_images=np.asfortranarray(IMAGES[0])),
        packed(np.savez, train_images=np.array([{"a": 1}], dtype=object)),
        packed(np.savez, train_images=np.uint8(7)),
    ],
    ids=["empty", "text", "cut", "cut_directory", "flipped", "no_npy", "cut_npy", "columns", "objects", "scalar"],
)
def test_a_damaged_file_is_told_as_such(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    images = NpzImages(Folder.at(str(tmp_path)))
    images.prepare(["a.npz/train/0"])
    for index in range(2):
        with pytest.raises(DamagedNpzError, match="damaged") as caught:
            images.read(f"a.npz/train/{index}")
        assert "a.npz" not in str(caught.value)


def test_a_damaged_array_is_inflated_once_and_not_for_each_of_its_images(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(flipped(packed(np.savez_compressed, train_images=IMAGES)))
    images = NpzImages(Folder.at(str(tmp_path)))
    images.prepare(["a.npz/train/0"])
    (tmp_path / "a.npz").unlink()
    with pytest.raises(DamagedNpzError):
        images.read("a.npz/train/1")


def test_storage_that_fails_is_not_the_files_fault(tmp_path: Path) -> None:
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(IsADirectoryError):
        NpzImages(Folder.at(str(tmp_path))).prepare(["a.npz/train/0"])


def test_what_is_prepared_is_read_though_the_archive_is_away(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(packed(np.savez_compressed, train_images=IMAGES))
    images = NpzImages(Folder.at(str(tmp_path)))
    images.prepare(["a.npz/train/0", "a.npz/train/1"])
    (tmp_path / "a.npz").unlink()
    assert images.read("a.npz/train/7").endswith(IMAGES[7].tobytes())


def test_a_header_that_promises_more_than_the_file_has_is_damage(tmp_path: Path) -> None:
    content = packed(np.savez, train_images=IMAGES)
    (tmp_path / "a.npz").write_bytes(content.replace(b"(40, 28, 28), ", b"(40, 2800,28),"))
    with pytest.raises(DamagedNpzError):
        NpzImages(Folder.at(str(tmp_path))).read("a.npz/train/0")


def test_another_file_under_the_same_name_is_read_anew(tmp_path: Path, save: Callable[..., None]) -> None:
    for array in (IMAGES, IMAGES[::-1]):
        (tmp_path / "a.npz").write_bytes(packed(save, train_images=np.ascontiguousarray(array)))
        read = NpzImages(Folder.at(str(tmp_path))).read("a.npz/train/1")
        assert np.array_equal(np.load(io.BytesIO(read)), array[1])


def test_it_can_be_sent_after_it_was_used(tmp_path: Path, save: Callable[..., None]) -> None:
    (tmp_path / "a.npz").write_bytes(packed(save, train_images=IMAGES))
    images = NpzImages(Folder.at(str(tmp_path)))
    before = images.read("a.npz/train/1")
    sent = copy.copy(images)  # by the protocol that Spark sends it by
    assert sent == images
    assert set(vars(sent)) == {"archive"}
    assert sent.read("a.npz/train/1") == before


def test_threads_may_read_at_once(tmp_path: Path, save: Callable[..., None]) -> None:
    (tmp_path / "a.npz").write_bytes(packed(save, train_images=IMAGES))
    images = NpzImages(Folder.at(str(tmp_path)))
    with ThreadPoolExecutor(8) as pool:
        contents = list(pool.map(images.read, [f"a.npz/train/{index}" for index in range(40)]))
    assert all(content.endswith(image.tobytes()) for content, image in zip(contents, IMAGES, strict=True))


def test_spark_workers_share_what_one_of_them_inflated(spark: SparkSession, tmp_path: Path) -> None:
    # Large enough that both workers come while one inflates.
    many = np.random.default_rng(2).integers(0, 256, (4000, 64, 64), dtype=np.uint8)
    (tmp_path / "a.npz").write_bytes(packed(np.savez_compressed, train_images=many))
    images = NpzImages(Folder.at(str(tmp_path)))

    def scratch_files(_: object) -> set[str]:
        return {str(path) for path in Path(os.environ["SPARK_LOCAL_DIRS"].split(",")[0]).glob("pleura-*.npy")}

    def spread(items: list[str], function: Callable[[str], object]) -> list[Any]:
        return spark.sparkContext.parallelize(items, len(items)).map(function).collect()

    (before,) = spread([""], scratch_files)
    paths = [f"a.npz/train/{index}" for index in (0, 1000, 2000, 3999)]
    for content, index in zip(spread(paths, images.read), (0, 1000, 2000, 3999), strict=True):
        assert content.endswith(many[index].tobytes())
    (after,) = spread([""], scratch_files)
    assert len(after - before) == 1


def test_outside_spark_nothing_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "a.npz").write_bytes(packed(np.savez_compressed, train_images=IMAGES))
    program = f"""
        from pathlib import Path
        from pipelines.folders import Folder
        from pipelines.npz_images import NpzImages
        NpzImages(Folder.at({str(tmp_path)!r})).read("a.npz/train/0")
        print(len(list(Path({str(tmp_path / "scratch")!r}).rglob("*.npy"))))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={"TMPDIR": str(tmp_path / "scratch"), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stdout.strip() == "1"
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.real
def test_the_real_file_is_read(real_data: Path) -> None:
    images = NpzImages(Folder.at(str(real_data)))
    with np.load(real_data / "pneumoniamnist.npz") as npz:
        for split, last in (("train", 2427), ("val", 269), ("test", 467)):
            read = np.load(io.BytesIO(images.read(f"pneumoniamnist.npz/{split}/{last}")))
            assert np.array_equal(read, npz[f"{split}_images"][last])
            with pytest.raises(FileNotFoundError):
                images.read(f"pneumoniamnist.npz/{split}/{last + 1}")

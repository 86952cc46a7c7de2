"""prepare_data.py --workers, --shard and merge: many threads and many hosts write the bytes of one."""

import json
import os
import shutil
import threading

import pytest

from facelib.data.conversion import shards_done
from facelib.data.conversion.job import convert
from facelib.data.conversion.shards_done import convert_part, merge, part_path
from facelib.data.readers.folder_source import FolderSource
from facelib.data.readers.open_records import open_records
from facelib.errors import FaceError
from tests.scripts.test_prepare_data import encoded, make_folders, run


def all_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def make_damaged(root):
    """Faces of 5 identities; one image of 'b' is bad, both of 'd', one of two of 'e'; a name is no UTF-8."""
    make_folders(root, {"a": 9, "b": 8, "c": 7, "d": 2, "e": 2})
    for name in ("b/3.png", "d/0.jpg", "d/1.png", "e/0.jpg"):
        (root / name).write_bytes(b"no image")
    os.rename(os.fsencode(root / "b" / "3.png"), os.fsencode(root / "b") + b"/3\xff.png")


@pytest.mark.parametrize("workers", [2, 8])
@pytest.mark.parametrize("decode_all", [False, True])
def test_the_number_of_workers_changes_nothing(tmp_path, workers, decode_all):
    make_damaged(tmp_path / "faces")
    options = {"skip_bad": True, "shards": 3, "decode_all": decode_all, "progress": False}
    convert(tmp_path / "faces", tmp_path / "one", workers=1, **options)
    convert(tmp_path / "faces", tmp_path / "many", workers=workers, **options)

    assert all_bytes(tmp_path / "one") == all_bytes(tmp_path / "many")


def test_workers_read_at_the_same_time(tmp_path, monkeypatch):
    make_folders(tmp_path / "faces", {"a": 400})
    barrier = threading.Barrier(4, timeout=30)  # of the first record of four pieces
    read = FolderSource.read
    monkeypatch.setattr(FolderSource, "read", lambda self, i: (i % 64 or i > 192 or barrier.wait(), read(self, i))[1])
    convert(tmp_path / "faces", tmp_path / "data", workers=4, progress=False)

    assert len(open_records(tmp_path / "data")) == 400


@pytest.mark.parametrize("num_hosts", [1, 2, 3, 7])
@pytest.mark.parametrize("options", [{}, {"min_images": 2}, {"max_images": 5, "seed": 3}])
@pytest.mark.parametrize("is_damaged", [False, True])
def test_the_parts_of_many_hosts_make_the_bytes_of_one(tmp_path, num_hosts, options, is_damaged):
    if is_damaged:  # 'd' is lost, and 'e' too where two images are the least: labels behind them move up
        make_damaged(tmp_path / "faces")
    else:
        make_folders(tmp_path / "faces", {"a": 9, "b": 8, "c": 7, "d": 2, "e": 2})
    options = {"skip_bad": is_damaged, "shards": 7, "progress": False, **options}
    convert(tmp_path / "faces", tmp_path / "one", **options)
    num_images = 0
    for part in reversed(range(1, num_hosts + 1)):
        done = convert_part(tmp_path / "faces", tmp_path / "many", part, num_hosts, **options)
        assert done.out.name == f"many.part-{part}-of-{num_hosts}"
        num_images += done.num_images
    merged = merge(tmp_path / "many", progress=False)

    assert merged.num_images == len(open_records(tmp_path / "one")) <= num_images
    assert all_bytes(tmp_path / "many") == all_bytes(tmp_path / "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces", "many", "one"]


def test_a_host_reads_its_own_records_alone(tmp_path, monkeypatch):
    make_folders(tmp_path / "faces", {"a": 30, "b": 30})
    seen, read = [], FolderSource.read
    monkeypatch.setattr(FolderSource, "read", lambda self, i: seen.append(i) or read(self, i))
    for part in (1, 2, 3):
        convert_part(tmp_path / "faces", tmp_path / "data", part, 3, shards=6, progress=False)

    assert sorted(seen) == list(range(60))


def test_parts_and_merge_as_they_are_typed(tmp_path, capsys):
    make_folders(tmp_path / "faces", {"a": 4, "b": 4})
    args = (tmp_path / "faces", tmp_path / "data", "--shards", 2)
    for part in ("1/2", "2/2", "2/2"):
        assert run(*args, "--shard", part) == 0
    out = capsys.readouterr().out
    assert f"wrote {tmp_path}/data.part-1-of-2: 4 images, 2 identities, 1 shard\n" in out
    assert f"already there, nothing to do: {tmp_path}/data.part-2-of-2" in out
    assert f"next: the other parts, then python prepare_data.py merge {tmp_path}/data\n" in out

    assert run("merge", tmp_path / "data") == 0
    assert "8 images, 2 identities, 2 shards\nnext: python train.py" in capsys.readouterr().out
    for again in (("merge", tmp_path / "data"), args, (*args, "--shard", "1/2")):
        run(*again)
        assert "already there, nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "2", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b", "1.5/2", " 1/2"])
def test_a_malformed_shard_is_one_line(tmp_path, text):
    make_folders(tmp_path / "faces", {"a": 4})
    with pytest.raises(FaceError, match=r"--shard must be I/N.*such as 2/8") as error:
        run(tmp_path / "faces", tmp_path / "data", f"--shard={text}")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


def make_parts(root, parts=((1, 2), (2, 2)), **options):
    make_folders(root / "faces", {"a": 6, "b": 6})
    for part, count in parts:
        convert_part(root / "faces", root / "data", part, count, shards=4, progress=False, **options)


def test_parts_that_do_not_belong_together_are_refused(tmp_path):
    with pytest.raises(FaceError, match=r"there are no parts.*--shard I/N"):
        merge(tmp_path / "data")
    make_parts(tmp_path, [(1, 3), (3, 3)])
    with pytest.raises(FaceError, match=r"needs all 3 parts\. Missing: 2/3"):
        merge(tmp_path / "data")
    with pytest.raises(FaceError, match="more hosts than shards \\(4\\)"):
        convert_part(tmp_path / "faces", tmp_path / "data", 1, 5, shards=4, progress=False)
    with pytest.raises(FaceError, match=r"data\.part-1-of-3' was made with --seed 0"):
        convert_part(tmp_path / "faces", tmp_path / "data", 1, 3, shards=4, seed=1, progress=False)
    convert_part(tmp_path / "faces", tmp_path / "data", 2, 3, shards=4, seed=1, progress=False)
    with pytest.raises(FaceError, match=r"data\.part-2-of-3' was made with --seed 1"):
        merge(tmp_path / "data")
    convert_part(tmp_path / "faces", tmp_path / "data", 1, 2, shards=4, progress=False)
    with pytest.raises(FaceError, match=r"N = 2 and of 3"):
        merge(tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_parts_of_another_source_are_refused(tmp_path):
    make_parts(tmp_path, [(1, 2)])
    (tmp_path / "faces" / "a" / "9.jpg").write_bytes(encoded(9))
    convert_part(tmp_path / "faces", tmp_path / "data", 2, 2, shards=4, progress=False)

    with pytest.raises(FaceError, match="different face data"):
        merge(tmp_path / "data")


@pytest.mark.parametrize("damage", ["part.json", "index.npy", "train-00002-of-00004.tfrecord"])
@pytest.mark.parametrize("is_gone", [True, False])
def test_a_damaged_part_is_named_and_the_parts_stay(tmp_path, damage, is_gone):
    make_parts(tmp_path)
    file = tmp_path / "data.part-2-of-2" / damage
    data = file.read_bytes()
    if is_gone:
        file.unlink()
    else:
        file.write_bytes(data[:-3])
    with pytest.raises(FaceError, match=r"data\.part-2-of-2"):
        merge(tmp_path / "data")

    file.write_bytes(data)
    assert merge(tmp_path / "data").num_images == 12


def interrupted(*args):
    raise KeyboardInterrupt  # not the signal: a job in the background may have been told to ignore that


def test_a_merge_that_fails_leaves_the_parts(tmp_path, monkeypatch):
    make_parts(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    monkeypatch.setattr(shards_done, "write_meta", interrupted)
    with pytest.raises(KeyboardInterrupt):
        merge(tmp_path / "data")
    monkeypatch.undo()

    assert {path.name for path in tmp_path.iterdir()} == before
    assert merge(tmp_path / "data").num_images == 12


def test_a_merge_killed_at_its_very_end_is_tidied_by_the_next(tmp_path, monkeypatch):
    make_parts(tmp_path)
    monkeypatch.setattr(shards_done, "_remove_parts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        merge(tmp_path / "data")
    monkeypatch.undo()
    assert (tmp_path / "data.part-1-of-2").exists()

    assert merge(tmp_path / "data").was_finished
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "faces"]


@pytest.mark.parametrize("name", ["index.npy", "part.json", "train-00000-of-00004.tfrecord"])
def test_a_merge_killed_while_it_removes_a_part_is_tidied_by_the_next(tmp_path, monkeypatch, name):
    make_parts(tmp_path)

    def killed(folder):
        (folder / name).unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(shards_done.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        merge(tmp_path / "data")
    monkeypatch.undo()

    assert merge(tmp_path / "data").was_finished
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "faces"]
    for folder in ("data", "faces"):
        shutil.rmtree(tmp_path / folder)
    make_parts(tmp_path)
    assert merge(tmp_path / "data").num_images == 12


def test_a_file_system_without_links_gets_copies(tmp_path, monkeypatch):
    make_parts(tmp_path)
    monkeypatch.setattr(os, "link", lambda *a: (_ for _ in ()).throw(OSError(1, "Operation not permitted")))

    assert merge(tmp_path / "data").num_images == 12
    records = open_records(tmp_path / "data")
    assert len([records.read(i) for i in range(12)]) == 12


@pytest.mark.parametrize("name", ["meta.json", "part.json"])
def test_every_key_of_a_part_or_a_finished_directory_may_hold_anything(tmp_path, name):
    make_folders(tmp_path / "faces", {"a": 4, "b": 3})
    out, options = tmp_path / "data", {"shards": 2, "progress": False}
    if name == "meta.json":
        convert(tmp_path / "faces", out, **options)
        file, again = out / name, lambda: [convert(tmp_path / "faces", out, **options), merge(out)]
    else:
        for part in (1, 2):
            convert_part(tmp_path / "faces", out, part, 2, **options)
        file = part_path(out, 2, 2) / name

        def again():
            convert_part(tmp_path / "faces", out, 2, 2, **options)
            shutil.copytree(tmp_path, tmp_path.with_name("copy"), ignore=lambda *_: ["faces"])
            try:
                merge(tmp_path.with_name("copy") / "data")
            finally:
                shutil.rmtree(tmp_path.with_name("copy"))

    again()
    good = json.loads(file.read_text())
    places = [(good, key) for key in good] + [(good["source"], key) for key in good["source"]]
    places += [(good["shards"][0], key) for key in good["shards"][0]] + [(good["source"]["options"], "seed")]
    num_refused = 0
    for parent, key in places:
        kept = parent[key]
        for wrong in (None, True, -1, 0.5, "../x", "x" * 300, [], [1], [[]], {}, 2**63, ..., 10**6):
            parent[key] = wrong
            if wrong is ...:
                del parent[key]
            file.write_text(json.dumps(good))
            try:
                again()
            except FaceError as error:
                num_refused += 1
                assert "\n" not in str(error) and len(str(error)) < 900
        parent[key] = kept
    assert num_refused > 100

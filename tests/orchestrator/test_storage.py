"""Objects, trees and states in a store: whole or not at all, on a disk and on an S3 server."""

import json
import random
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.storage import StorageRefusedError, StorageUriError, Store, check_uri, is_uri, open_store, reachable
from orchestrator.stored_packs import get_pack, put_pack
from orchestrator.trees import (
    CHUNK,
    DamagedStorageError,
    Manifest,
    OutsideError,
    StoredFile,
    check_inside,
    get_files,
    manifests,
    newest_manifest,
    parse_manifest,
    put_files,
)

SLOW_IS_FINE = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
NAMES = st.text(alphabet=string.ascii_letters + string.digits + "-_äß ", min_size=1, max_size=8).map(lambda n: f"f{n}x")
TREES = st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map("/".join), st.binary(max_size=2000), max_size=8)


@pytest.fixture(params=["disk", "s3"])
def place(request, tmp_path):
    """A place in a store, on a disk or on a server."""
    if request.param == "disk":
        return open_store(f"file://{tmp_path}/store")
    return open_store(f"{request.getfixturevalue('bucket')}/some/runs")


def write_tree(folder, tree):
    """Write files, and leave out those whose folder another's name has taken."""
    written = {}
    for name, data in tree.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError:
            continue
        written[name] = data
    return written


def read_tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def send(store, folder, sequence=1, known=None):
    files = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}
    manifest = Manifest(sequence, "somebody", 0.0, put_files(store, files, set() if known is None else known))
    store.write(manifest.name, manifest.to_bytes())
    return manifest


def test_an_object_is_written_read_listed_and_removed(place):
    assert place.read("a/b") is None
    assert place.entries() == {}
    assert place.folders() == []
    place.write("a/b", b"one")
    place.write("a/b", b"three")
    place.write("c", b"")
    assert place.read("a/b") == b"three"
    assert {name: entry.size for name, entry in place.entries().items()} == {"a/b": 5, "c": 0}
    assert place.below("a").entries().keys() == {"b"}
    assert place.folders() == ["a"]
    place.delete("a/b")
    place.delete("a/b")
    assert place.entries().keys() == {"c"}


@SLOW_IS_FINE
@given(tree=TREES)
def test_any_tree_comes_back_as_it_was(tmp_path_factory, tree):
    folder = tmp_path_factory.mktemp("tree")
    written = write_tree(folder / "there", tree)
    store = open_store(f"file://{folder}/store")
    manifest = send(store, folder / "there") if written else Manifest(1, "nobody", 0.0, {})
    assert parse_manifest(manifest.to_bytes(), "here") == manifest
    get_files(store, manifest, folder / "back")
    assert read_tree(folder / "back") == written


def test_a_tree_on_s3_comes_back_as_it_was_and_only_what_is_new_is_sent(bucket, tmp_path):
    store = open_store(f"{bucket}/runs")
    data = random.Random(0).randbytes(CHUNK + 1000)
    write_tree(tmp_path / "there", {"log.jsonl": data, "same/log": data, "empty": b"", "ü/ä": b"x"})
    known: set[str] = set()
    first = send(store, tmp_path / "there", 1, known)
    assert len(known) == 3  # two chunks of what is there twice, one of the short file
    with (tmp_path / "there" / "log.jsonl").open("ab") as file:
        file.write(b"more")
    second = send(store, tmp_path / "there", 2, known)
    assert second.objects() - first.objects() == {second.files["log.jsonl"].chunks[-1]}
    assert newest_manifest(store) == second
    for number, manifest in enumerate((first, second)):
        get_files(store, manifest, tmp_path / str(number))
    assert read_tree(tmp_path / "1") == read_tree(tmp_path / "there")
    assert read_tree(tmp_path / "0")["log.jsonl"] == data


def test_a_damaged_chunk_is_found_and_named(place, tmp_path):
    write_tree(tmp_path / "there", {"weights": b"1234", "other": b"5"})
    manifest = send(place, tmp_path / "there")
    chunk = manifest.files["weights"].chunks[0]
    place.write(f"objects/{chunk}", b"1235")
    with pytest.raises(DamagedStorageError, match=rf"{chunk}: is damaged.*weights") as refused:
        get_files(place, manifest, tmp_path / "back")
    assert "\n" not in str(refused.value)
    place.delete(f"objects/{chunk}")
    with pytest.raises(DamagedStorageError, match="is missing"):
        get_files(place, manifest, tmp_path / "again")


@pytest.mark.parametrize("damage", [lambda d: d[:-20], lambda d: d.replace(b"weights", b"wEights"), lambda d: b""])
def test_a_damaged_manifest_gives_way_to_the_one_before(place, tmp_path, damage):
    write_tree(tmp_path / "there", {"weights": b"1234"})
    first = send(place, tmp_path / "there", 1)
    second = send(place, tmp_path / "there", 2)
    place.write(second.name, damage(second.to_bytes()))
    assert newest_manifest(place) == first
    place.delete(first.name)
    with pytest.raises(DamagedStorageError, match="damaged manifest"):
        newest_manifest(place)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/../../x", "", ".", "a//b", "a/./b", "a\\b", "a\0b", "a\nb", "a/"]
)
def test_a_name_that_leaves_the_folder_is_refused_and_nothing_is_written(tmp_path, name):
    with pytest.raises(OutsideError, match="not inside of the folder"):
        check_inside(name, "s3://b/runs")
    store = open_store(f"file://{tmp_path}/store")
    write_tree(tmp_path / "there", {"fine": b"1"})
    fine = send(store, tmp_path / "there", 1)
    bad = Manifest(2, "somebody", 0.0, {"fine": fine.files["fine"], name: fine.files["fine"]})
    store.write(bad.name, bad.to_bytes())
    # The one before is whole, but who writes such names is not to be trusted with another.
    with pytest.raises(OutsideError):
        newest_manifest(store)
    with pytest.raises(OutsideError):
        get_files(store, bad, tmp_path / "back")
    assert not (tmp_path / "x").exists()


def test_a_chunk_that_is_no_digest_is_refused():
    text = Manifest(1, "o", 0.0, {"a": StoredFile(1, ("../../secret",))}).to_bytes()
    with pytest.raises(DamagedStorageError, match="no sha256"):
        parse_manifest(text, "here")


def test_strangers_among_the_manifests_are_passed_over(place, tmp_path):
    write_tree(tmp_path / "there", {"a": b"1"})
    manifest = send(place, tmp_path / "there")
    place.write("manifests/99999999-x.json.tmp", b"")
    assert manifests(place) == [manifest.name]


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("ftp://host/x", "allowed are s3://BUCKET/PATH"),
        ("s3://", "names no bucket"),
        ("file://host/x", "names no bucket or path"),
        ("s3://key:geheim@bucket/runs", "may hold no user or password"),
        ("s3://key@bucket/runs", "may hold no user or password"),
        ("s3://bucket/runs?access_key=geheim", "'access_key' is not allowed"),
        ("abfs://c:geheim@account.dfs.core.windows.net/x", "may hold no user or password"),
    ],
)
def test_a_uri_that_is_none_or_holds_a_secret_is_refused_without_showing_it(uri, said):
    with pytest.raises(StorageUriError, match=said) as refused:
        check_uri(uri)
    assert "\n" not in str(refused.value)
    assert "geheim" not in str(refused.value)


def test_what_is_a_uri():
    assert is_uri("s3://b/x")
    assert not is_uri("runs/s3")
    check_uri("abfs://container@account.dfs.core.windows.net/x")


def test_a_bucket_that_is_not_there_is_said_in_one_line(s3_server):
    with pytest.raises(StorageRefusedError, match=r"s3://no-such-bucket-here/runs: there is no such bucket") as refused:
        reachable("s3://no-such-bucket-here/runs")
    assert "\n" not in str(refused.value)


def test_a_store_that_is_away_is_said_in_one_line(bucket):
    with pytest.raises(StorageRefusedError, match=r"storage s3://x/runs: .*connect"):
        reachable("s3://x/runs?endpoint_override=127.0.0.1:9&scheme=http")


def test_a_pack_is_fetched_once_and_checked(place, tmp_path, surfaces):
    from search.data.pack import build_pack
    from search.data.readers import open_dataset
    from search.settings import DataSettings

    pack = build_pack(open_dataset(surfaces / "good"), DataSettings(image_size=32), 0, tmp_path / "packs")
    put_pack(place, pack.folder, pack.digest)
    sent = place.entries()
    put_pack(place, pack.folder, pack.digest)
    assert place.entries() == sent
    found = get_pack(place, pack.digest, pack.folder.name, tmp_path / "elsewhere")
    assert read_tree(found) == read_tree(pack.folder)
    assert get_pack(place, pack.digest, pack.folder.name, tmp_path / "elsewhere") == found
    # Of the same name, but another one: it is left alone.
    meta = json.loads((found / "meta.json").read_text())
    (found / "meta.json").write_text(json.dumps({**meta, "digest": "0" * 64}))
    assert get_pack(place, pack.digest, pack.folder.name, tmp_path / "elsewhere") != found
    with pytest.raises(DamagedStorageError, match="names no pack"):
        get_pack(place, pack.digest, "../x", tmp_path / "elsewhere")
    other = Manifest(1, "pack", 0.0, {})
    place.write(f"packs/{'1' * 64}/{other.name}", other.to_bytes())
    with pytest.raises(DamagedStorageError):
        get_pack(place, "1" * 64, "p", tmp_path / "elsewhere")
    assert sorted(p.name for p in (tmp_path / "elsewhere").iterdir() if p.is_dir()) == sorted(
        [found.name, f"{found.name}-{pack.digest[:16]}"]
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("AWS Error ACCESS_DENIED during PutObject operation: Access Denied", "access denied; credentials come from"),
        ("AWS Error UNKNOWN (HTTP status 403) during HeadObject operation", "access denied; credentials come from"),
        ("AWS Error INVALID_ACCESS_KEY_ID during PutObject operation", "does not know the access key"),
        ("AWS Error SIGNATURE_DOES_NOT_MATCH during PutObject", "the secret key is not that of the access key"),
        ("google::cloud::Status(PERMISSION_DENIED: ...)", "access denied; credentials come from"),
    ],
)
def test_a_store_that_refuses_is_one_line_that_says_where_credentials_come_from(text, said):
    class Refusing:
        type_name = "s3"

        def open_output_stream(self, path):
            raise OSError(text)

    with pytest.raises(StorageRefusedError, match=said) as refused:
        Store("s3://b/runs", "b/runs", Refusing()).write("a", b"")
    assert str(refused.value).startswith("storage s3://b/runs: ")


def test_a_slash_at_the_end_changes_nothing(tmp_path):
    assert open_store(f"file://{tmp_path}/").uri == open_store(f"file://{tmp_path}").uri == f"file://{tmp_path}"

"""The command on its way to the cluster: no shell misreads it, and a second launch is recognised."""

import shlex
import subprocess
from subprocess import list2cmdline

import pytest
from cluster_profiles import profile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clusters.command import decode, encode, entrypoint, make_job

# What an argument of a process can hold: everything but NUL.
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
HOSTILE = [
    "$(touch /tmp/broken-out)", "`id`", "; rm -rf /", "a b", "'", '"', "'\"'\"'", "\n#SBATCH --uid=0", "$HOME", "~",
    "~root", "*", "&& id", "| id", "> /tmp/x", "!!", "\\", "%41", "%", "", "-x", "--", "{a,b}", "#", "ü", "=ls", "\r\n",
]  # fmt: skip


@given(WORDS)
@example("%41")
@example("%")
def test_a_word_survives_its_encoding(word):
    assert decode(encode(word)) == word


@given(WORDS)
def test_an_encoded_word_means_nothing_to_a_shell(word):
    coded = encode(word)
    assert shlex.quote(coded) in (coded, f"'{coded}'")
    assert shlex.split(coded, comments=True) == [coded]
    assert list2cmdline([coded]) == coded
    assert not set(coded) & set(" \t\n'\"\\$`;&|<>(){}[]*?!#~^")


def test_plain_words_stay_as_they_are():
    words = ["search", "autonad", "--data", "/shared/data/MT", "--set", "search.epochs=5", "--latency-limit", "12ms"]
    assert [encode(word) for word in words] == words


@settings(max_examples=15, deadline=None)
@given(st.lists(WORDS, max_size=4))
@example(HOSTILE)
def test_the_words_arrive_after_two_shells(words):
    """KubeRay's submitter runs the entry point through a shell, and Ray's job server what is left through another."""
    job = make_job(["search", *words], "night")
    line = entrypoint(profile("kuberay"), job)
    # As `ray job submit -- WORDS` does it: a shell, list2cmdline, and a shell again.
    seen = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True).stdout
    again = list2cmdline(seen.decode().split("\0")[:-1])
    seen = subprocess.run(["sh", "-c", f"printf '%s\\0' {again}"], capture_output=True, check=True).stdout
    arrived = seen.decode().split("\0")[:-1]
    assert arrived[:3] == ["defectnas", "cluster", "run"]
    assert tuple(decode(word) for word in arrived[arrived.index("--") + 1 :]) == job.words


def test_the_same_command_has_the_same_id():
    words = ["search", "autonad", "--data", "/a"]
    assert make_job(words, cluster="x") == make_job(words, cluster="x")
    others = [make_job(words, cluster="y"), make_job([*words, "--seed", "1"], cluster="x")]
    assert len({make_job(words, cluster="x").id, *(job.id for job in others)}) == 3


def test_another_attempt_has_another_id_and_the_same_run():
    first, second = make_job(["search", "asdet"], "night"), make_job(["search", "asdet"], "night", attempt=2)
    assert (first.id, second.id) == ("night", "night-176473-2")
    assert first.run == second.run == "night"


RUNS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,60}", fullmatch=True)


@given(RUNS, RUNS, st.integers(1, 12), st.integers(1, 12))
@example("A.b", "a-b", 1, 1)
@example("night-2", "night", 1, 2)
def test_ids_are_names_for_kubernetes_and_differ_with_their_runs(one, other, attempt, later):
    first, second = make_job(["search"], one, attempt), make_job(["search"], other, later)
    assert len(first.id) <= 40
    assert first.id[0].isalpha()
    assert first.id[-1].isalnum()
    assert set(first.id) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert (first.id == second.id) == ((one, attempt) == (other, later))


@pytest.mark.parametrize("name", ["../up", "a b", "", "a/b", "$x", "a\n", "-x"])
def test_a_run_that_cannot_be_a_folder_is_refused(name):
    with pytest.raises(ValueError, match="names no run"):
        make_job(["search"], name)

"""Threads wait for one another; forks are told that they cannot run kernels."""

from __future__ import annotations

import subprocess
import sys
import threading

import leankv
import numpy as np

PLAN = leankv.Plan(layers=2, kv_heads=2, group=2, head_dim=64, kv="K8V4/K4V2@1/3", max_tokens=300, chunk=32, input="f32")


def step(cache: leankv.Cache, handle: int, rows: int) -> None:
    number = cache.begin([(handle, rows)])
    for layer in range(2):
        q, k, v = (np.full((rows, width), 0.5, np.float32) for width in (256, 128, 128))
        cache.layer(number, layer, q, k, v, q)
    cache.finish(number)


def test_who_looks_on_disturbs_nobody():
    cache = leankv.Cache(PLAN, slots=3, pages=600)
    done, problems, looks = threading.Event(), [], [0]

    def look() -> None:
        while not done.is_set():
            try:
                held = cache.totals()
                assert 0 <= held["pages_used"] <= cache.pages
                assert cache.audit() == []
                cache.handles(), cache.free_pages(), repr(cache), cache.free([99])
                looks[0] += 1
            except Exception as error:  # noqa: BLE001
                problems.append(error)
                return

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(8):
            cache.admit(turn, 100)
            step(cache, turn, 100)
            step(cache, turn, 1)
            cache.free([turn])
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert problems == [] and looks[0] > 0
    assert cache.free_pages() == cache.pages


def test_caches_of_several_threads_do_not_meet():
    given: dict[int, bytes] = {}

    def serve(number: int) -> None:
        cache = leankv.Cache(PLAN, slots=1, pages=200)
        cache.admit(1, 60)
        random = np.random.default_rng(5)
        begun = cache.begin([(1, 60)])
        for layer in range(2):
            q, k, v = (random.standard_normal((60, width)).astype(np.float32) for width in (256, 128, 128))
            cache.layer(begun, layer, q, k, v, q)
            given[number] = q.tobytes()
        cache.finish(begun)

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(given) == 4 and len(set(given.values())) == 1


FORK = """
import os, sys, test_threads as t
if "parent" in sys.argv:
    cache = t.leankv.Cache(t.PLAN, slots=1, pages=100)
    cache.admit(1, 5); t.step(cache, 1, 5)
child = os.fork()
if child == 0:
    try:
        own = t.leankv.Cache(t.PLAN, slots=1, pages=100)
        own.admit(1, 5); t.step(own, 1, 5)
    except t.leankv.LeanKvError as error:
        os._exit(7 if "spawn" in str(error) else 8)
    except BaseException:
        os._exit(9)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def forked(*args: str) -> int:
    script = f"import sys; sys.path.insert(0, {__file__.rsplit('/', 1)[0]!r})\n{FORK}"
    done = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True, timeout=120, check=True)
    return int(done.stdout)


def test_a_fork_of_a_process_with_a_cache_is_refused_and_one_without_is_not():
    assert forked("parent") == 7
    assert forked() == 0

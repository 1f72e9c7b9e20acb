import asyncio
import os
import pathlib
import signal
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from weir import WORKERS, Watch, Weir  # noqa: E402

GUARD_S = 20


# Of one loop: what a guest is told at once of a connection that may be another loop's, which part of a limit a loop has.
# test_loops.py has what is so with several.
ONE_LOOP = {
    "test_503_when_too_many_guests_run", "test_504_for_one_that_waited_too_long", "test_send_to_one_that_has_gone",
    "test_forged_ids", "test_another_modules_connection_is_out_of_reach", "test_ws_close_of_another_connection",
    "test_attachment_of_another_connection", "test_what_runs_finishes_on_the_old_version", "test_all_but_one",
}


# What lasts longest begins first, so that no process of tests is left with it when the others have ended.
LONG = ["test_snapshot.py", "test_chat.py", "test_turns.py", "test_scaffold.py"]


def pytest_collection_modifyitems(items):
    items[:] = [i for i in items if WORKERS == 1 or i.originalname not in ONE_LOOP]
    items.sort(key=lambda i: LONG.index(i.path.name) if i.path.name in LONG else len(LONG))


def pytest_configure(config):
    config.addinivalue_line("markers", "guard(seconds): another time guard than 20 s")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    """No test, with its fixtures, takes longer than its guard."""
    mark = item.get_closest_marker("guard")
    seconds, watch = mark.args[0] if mark else GUARD_S, Watch()

    def over(sig, stack):  # each second from then on
        if _phase and watch.over(seconds):
            raise TimeoutError(f"{item.nodeid} took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


_phase = []  # what the guard may end: a test's own code, not pytest's


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_setup(item):
    _phase.append(item)
    yield
    _phase.clear()


pytest_runtest_call = pytest_runtest_teardown = pytest_runtest_setup


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Compiled modules, shared by all tests that do not test the cache itself; and by the processes of a run, which names it."""
    folder = os.environ.get("WEIR_CACHE_TESTS")
    return pathlib.Path(folder) if folder else tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def _running():
    started = []
    yield started
    for w in started:
        w.kill()


@pytest.fixture(scope="module")
def shared(request, tmp_path_factory, cache, _running):
    """The gateway of a test file: its CONFIG. Checked after each test, stopped after the last."""
    w = Weir(tmp_path_factory.mktemp("weir"), cache, request.module.CONFIG, start=False)
    _running.append(w)
    w.start()
    yield w
    w.stop()


@pytest.fixture
def weir(shared):
    yield shared
    shared.check()


@pytest.fixture
def start(tmp_path, cache, _running):
    """start(config): a gateway of this test's own; stopped and checked at its end."""
    mine = []

    def make(config, **kw):
        kw.setdefault("cache", cache)
        begin = kw.pop("start", True)
        w = Weir(tmp_path, config=config, start=False, **kw)
        mine.append(w)
        _running.append(w)
        return w.start() if begin else w

    yield make
    errors = []
    for w in mine:
        try:
            w.stop()
        except AssertionError as e:
            errors.append(str(e))
    assert not errors, "; ".join(errors)


@pytest.fixture
def run():
    """Runs a coroutine with a deadline."""
    def go(coroutine, timeout=15):
        async def bounded():
            return await asyncio.wait_for(coroutine, timeout)
        return asyncio.run(bounded())
    return go

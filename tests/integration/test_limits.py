"""Limits of the whole gateway: connections, descriptors, and guests that want more than their share."""
import os
import re
import time

import pytest

from weir import BINARY, Closed, Frame, Raw, TEXT, Watch, close, cpu_seconds, frame, guest, problem, wait_for

ADD = "POST /api/exec/add HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n[1,2]"
ROUTES = [{"path": "/ws/raw", "websocket": {"handler": "echo"}}]
MODULES = {"add": guest("add")}


def works(c):
    return c.send(ADD).response().body == b"3\n"


# ---------------------------------------------------------------------------- connections


def fill_up(w, limit):
    """Connections that each were served, until limits.connections are open."""
    conns = [w.raw() for _ in range(limit)]
    assert all(works(c) for c in conns)
    return conns


def test_connection_limit(start):
    """Past limits.connections: 503 with Retry-After, then the end; those that are open go on."""
    w = start({"limits": {"connections": 12}, "modules": MODULES, "routes": ROUTES})
    conns = fill_up(w, 12)
    refused = w.metric("connections_refused_total")
    for i in range(5):
        with w.raw() as c:
            r = c.response()  # it need not ask to be told
            assert r.status == 503
            assert re.fullmatch(r"\d+", r.headers.get("retry-after"))
            assert r.headers.get("connection") == "close"
            c.closed()
    assert w.metric("connections_refused_total") == refused + 5
    assert w.metric("errors_total", code="CONNECTIONS") == refused + 5
    assert all(works(c) for c in conns)
    active = w.metric("connections_active")
    conns.pop().close()
    w.wait_metric("connections_active", active - 1)
    with w.raw() as c:
        assert works(c), "the place that became free is given"
    for c in conns:
        c.close()


def talks(c):
    """A peer that sends on though it was refused, and then reads: no reset may come before it has read."""
    for _ in range(8):
        c.sock.sendall(b"POST / HTTP/1.1\r\n" * 500)
    got = b""
    while part := c.sock.recv(4096):
        got += part
    assert got.startswith(b"HTTP/1.1 503 ") and got.endswith(b"\r\n\r\n")


def test_who_is_refused_can_read_why(start):
    w = start({"limits": {"connections": 4, "refused": 3, "close_timeout": "60s"}, "modules": MODULES, "routes": ROUTES})
    conns = fill_up(w, 4)
    told = []
    for i in range(3):
        told.append(w.raw())
        w.wait_metric("connections_refused_total", i + 1)
    for c in told:
        talks(c)
    assert w.metric("refused_cut_total") == 0
    with w.raw() as c:  # the oldest makes room
        w.wait_metric("refused_cut_total", 1)
        talks(c)
    with pytest.raises(ConnectionError):
        for _ in range(200):
            told[0].sock.sendall(bytes(1000))
            time.sleep(0.005)
    for c in (*told, *conns):
        c.close()


def test_who_was_refused_is_not_kept_long(start):
    w = start({"limits": {"connections": 2, "close_timeout": "100ms"}, "modules": MODULES, "routes": ROUTES})
    conns = fill_up(w, 2)
    assert w.metric("refused_cut_total") == 0  # its connection stays
    before = len(os.listdir(f"/proc/{w.worker_pid()}/fd"))
    told = [w.raw() for _ in range(20)]
    w.wait_metric("connections_refused_total", 20)
    for c in told:
        assert c.response().status == 503
    wait_for("their descriptors are given back", lambda: len(os.listdir(f"/proc/{w.worker_pid()}/fd")) <= before)
    assert w.metric("refused_cut_total") == 0
    for c in (*told, *conns):
        c.close()


def test_connection_limit_counts_websockets(start):
    w = start({"limits": {"connections": 10}, "modules": MODULES, "routes": ROUTES})
    conns = [w.ws("/ws/raw") for _ in range(10)]
    active = w.metric("connections_active")
    with w.raw() as c:
        assert c.response().status == 503
    conns[0].send(close(1000))
    conns[0].close_frame(1000)
    conns[0].closed()
    conns[0].close()
    w.wait_metric("connections_active", active - 1)
    with w.ws("/ws/raw") as c:
        c.send(frame(TEXT, "x"))
        assert c.frame() == Frame(True, TEXT, b"x")
    for c in conns[1:]:
        c.close()


def test_the_admin_listener_answers_when_all_places_are_taken(start):
    """Who must see why nobody gets in must get in."""
    w = start({"limits": {"connections": 8}, "modules": MODULES, "routes": ROUTES})
    conns = fill_up(w, 8)
    assert w.get("/healthz", admin=True).status == 200
    assert w.get("/metrics", admin=True).status == 200
    for c in conns:
        c.close()


def test_a_thousand_connections_come_and_go(start):
    w = start({"modules": MODULES, "routes": ROUTES})
    before = w.metrics()
    conns = [w.ws("/ws/raw") for _ in range(1000)]
    assert w.metric("websockets_active") == 1000
    for c in conns:
        c.send(frame(BINARY, b"abcd"))
    for c in conns:
        assert c.frame() == Frame(True, BINARY, b"abcd")
    for i, c in enumerate(conns):
        c.reset() if i % 2 else c.close()
    w.wait_metric("connections_active", before["weir_connections_active"], timeout=10)
    w.wait_metric("websockets_active", 0)
    assert w.metric("queued_bytes") == 0


# ---------------------------------------------------------------------------- descriptors


def test_descriptors_run_out(start):
    """Accepting pauses without a spin; what is open works on; accepting resumes."""
    w = start({"modules": MODULES, "routes": ROUTES}, nofile=64)
    w.wait_log("descriptors_short")
    worker = w.worker_pid()
    served = []
    try:
        while True:  # until one is not served: the descriptors have run out
            c = Raw(w.port, timeout=0.5)
            try:
                assert works(c)
            except (AssertionError, Closed, OSError):
                c.close()
                break
            served.append(c)
            assert len(served) < 64
        assert len(served) >= 20
        w.wait_log("accept_paused")
        crowd = [Raw(w.port) for _ in range(60)]  # they wait in the backlog, or are closed
        used = cpu_seconds(worker)
        began = time.monotonic()
        while time.monotonic() - began < 1.0:
            assert all(works(c) for c in served[:3]), "existing connections work on"
            time.sleep(0.05)
        assert cpu_seconds(worker) - used < 0.3, "it must not spin"
        assert len(w.logs("accept_paused")) < 60, "nor flood the log"
        for c in crowd:
            c.close()
        for c in served[5:]:
            c.close()
        assert all(works(c) for c in served[:5])

        def accepted():
            try:
                with Raw(w.port, timeout=2) as c:
                    return works(c)
            except (AssertionError, Closed, OSError):
                return False
        wait_for("new connections are accepted again", accepted, 5)
        assert w.metric("accept_paused_total") >= 1
    finally:
        for c in served:
            c.close()


# ---------------------------------------------------------------------------- guests

GREEDY = {"path": guest("types"), "limits": {"deadline": "20s", "timeout": "30s"}}
ENDLESS = "POST /api/exec/greedy/endless HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n[]"


def latencies(ask, n):
    times = []
    for _ in range(n):
        watch = Watch()
        ask()
        times.append(watch.took())
    return sorted(times)


@pytest.mark.parametrize("greedy", [1, 20])
@pytest.mark.parametrize("engine", ["native", "pulley"])
def test_endless_loops_hold_nobody_up(start, greedy, engine):
    """Guests that never end share what is theirs: another module, the built-in echo and the admin
    listener answer as before."""
    watch, w = Watch(), start({"modules": {**MODULES, "greedy": {**GREEDY, "engine": engine}}, "routes": ROUTES, "drain": "100ms"})
    loops = [w.raw() for _ in range(greedy)]
    for c in loops:
        c.send(ENDLESS)
    w.wait_metric("guests_running", lambda v: v >= 1)
    w.wait_metric("guest_slices_total", lambda v: v >= 20)
    with w.raw() as http, w.ws("/ws/raw") as ws:
        def echo():
            ws.send(frame(TEXT, "x"))
            assert ws.frame() == Frame(True, TEXT, b"x")

        def ask():
            assert works(http)
        for what in (ask, echo):
            times = latencies(what, 100)
            assert times[98] < 0.2, (what, times[-5:])
            assert times[50] < 0.05, (what, times[50])
    assert w.metric("guests_running") + w.metric("guests_waiting") == greedy, "they still run"
    assert w.metric("loop_away_max_seconds") < 0.5 + watch.lost()
    for c in loops:
        c.close()


def test_a_module_that_takes_all_places_leaves_some_to_others(start):
    """More endless guests than may run at once: the other module's still come to run."""
    w = start({"limits": {"guests": 4, "guest_queue": 100}, "drain": "100ms",
               "modules": {**MODULES, "greedy": {**GREEDY, "limits": {"deadline": "3s", "timeout": "30s"}}}})
    loops = [w.raw() for _ in range(8)]
    for c in loops:
        c.send(ENDLESS)
    wait_for("all 8 are there", lambda: w.metric("guests_running") + w.metric("guests_waiting") == 8)
    with w.raw() as c:
        times = latencies(lambda: works(c) or pytest.fail("another answer"), 20)
        assert times[-1] < 0.5, times
    for c in loops:
        c.close()


def test_guest_queue_limit(start):
    """guest_queue: 0 lets none wait."""
    w = start({"limits": {"guests": 1, "guest_queue": 0}, "drain": "100ms", "modules": {**MODULES, "greedy": GREEDY}})
    with w.raw() as busy, w.raw() as c:
        busy.send(ENDLESS)
        w.wait_metric("guests_running", 1)
        r = c.send(ADD).response()
        problem(r, 503, "GUEST_BUSY")
        assert re.fullmatch(r"\d+", r.headers.get("retry-after"))


def test_websocket_events_wait_where_requests_are_refused(start):
    """Too many guests: reading the WebSocket pauses; nothing is lost, nothing is closed."""
    w = start({"limits": {"guests": 2, "guest_queue": 1}, "modules": {
        "echo": guest("echo"), "greedy": {**GREEDY, "limits": {"deadline": "300ms", "timeout": "30s"}}},
        "routes": [{"path": "/ws/echo", "websocket": {"module": "echo"}}]})
    with w.ws("/ws/echo") as a, w.ws("/ws/echo") as b:
        loops = [w.raw() for _ in range(3)]
        for c in loops:
            c.send(ENDLESS)
        w.wait_metric("guests_running", lambda v: v >= 1)
        for c in (a, b):
            c.send(b"".join(frame(TEXT, str(i)) for i in range(500)))
        for c in (a, b):
            for i in range(500):
                assert c.frame() == Frame(True, TEXT, str(i).encode())
        for c in loops:
            assert c.response().status in (503, 504)
            c.close()
    assert w.metric("guests_waiting") == 0


def test_memory_of_guests_is_bounded(start):
    """A hundred guests at once that take all their memory: refused growth, no dead worker."""
    w = start({"limits": {"guests": 16}, "modules": {"types": {"path": guest("types"), "limits": {"memory": "1MiB"}}}})
    conns = [w.raw() for _ in range(100)]
    for c in conns:
        c.send("POST /api/exec/types/grow HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n[15]"
               "POST /api/exec/types/grow HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n[16]")
    for c in conns:
        assert c.response().body == b"1\n"
        assert c.response().body == b"-1\n"
        c.close()

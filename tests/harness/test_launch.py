"""Processes that fault, hang, grow and leave others behind; small ones, for a cell's own needs seconds to start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.launch import Limits, Outcome, supervise
from harness.locks import Busy, hold

ROOT = Path(__file__).resolve().parents[2]
AMPLE = Limits(60.0, 10**12)


def outcome(script: str, tmp_path: Path, limits: Limits = AMPLE, messages: list | None = None) -> Outcome:
    follow = (messages if messages is not None else []).append
    return supervise([sys.executable, "-X", "faulthandler", "-c", script], tmp_path / "log.txt", limits, follow)


def sleeps(tmp_path: Path) -> str:
    """A script that a test can find again, by its folder."""
    return f"import time; time.sleep(1000)  # {tmp_path}"


def sleepers(mark: object) -> list[int]:
    found = []
    for one in psutil.process_iter():
        try:
            line = " ".join(one.cmdline())
        except psutil.Error:
            continue
        if str(mark) in line and one.pid != os.getpid() and one.status() != psutil.STATUS_ZOMBIE:
            found.append(one.pid)
    return found


def test_messages_arrive_and_the_log_is_kept(tmp_path: Path) -> None:
    script = """
import sys
print('{"step": "train", "done": 1, "total": 2}', flush=True)
print("noted", file=sys.stderr)
print('{"finished": "train"}', flush=True)
"""
    messages = []
    assert outcome(script, tmp_path, messages=messages) == Outcome("ok", "", "noted")
    assert messages == [{"step": "train", "done": 1, "total": 2}, {"finished": "train"}]


@pytest.mark.parametrize(
    ("script", "status", "reason"),
    [
        ("import ctypes; ctypes.string_at(0)", "failed", "killed by SIGSEGV"),
        ("import os; os.kill(os.getpid(), 9)", "failed", "killed by SIGKILL (by the system, for lack of memory?)"),
        ("import os; os._exit(3)", "failed", "exit status 3"),
        ("import os; os._exit(0)", "ok", ""),
        ("""print('{"failed": "ValueError: no luck", "memory": false}')""", "failed", "ValueError: no luck"),
        ("""print('{"failed": "MemoryError", "memory": true}'); raise SystemExit(1)""", "memory", "MemoryError"),
        (
            """import os; print('{"step": "predict", "done": 3, "total": 9}', flush=True); os.abort()""",
            "failed",
            "killed by SIGABRT in predict, at 3 of 9",
        ),
    ],
)
def test_every_end_has_a_status_and_a_reason(script: str, status: str, reason: str, tmp_path: Path) -> None:
    found = outcome(script, tmp_path)
    assert (found.status, found.reason) == (status, reason)
    if "SEGV" in reason:
        assert 'File "<string>", line 1' in found.log, "the log says where"


HANGS = {
    "sleeps": "import time\ntime.sleep(1000)",
    "holds the interpreter": "import ctypes\nctypes.PyDLL(None).sleep(1000)",
    "closed its output": "import os, time\nos.close(1)\ntime.sleep(1000)",
    "its child holds the output": "import os, time\nif os.fork(): os._exit(0)\ntime.sleep(1000)",
}


@pytest.mark.parametrize("script", HANGS.values(), ids=HANGS)
def test_what_hangs_is_stopped(script: str, tmp_path: Path) -> None:
    prefix = "import faulthandler, signal; faulthandler.register(signal.SIGUSR1, all_threads=True)\n"
    start = time.monotonic()
    found = outcome(f"{prefix}{script}\n{sleeps(tmp_path)}", tmp_path, Limits(3.0, 10**12))
    assert time.monotonic() - start < 50
    assert sleepers(tmp_path) == []
    if "fork" in script:
        assert found.status == "ok", "the process itself had ended; what it left was killed"
        return
    assert (found.status, found.reason) == ("timeout", "stopped at its limit of 3 s")
    assert "Current thread" in found.log, "the log has the place of every thread"


def test_what_grows_is_stopped_children_included(tmp_path: Path) -> None:
    script = """
import os, time
kept = []
os.fork()  # two processes of half the size each
while True:
    kept.append(os.urandom(1 << 20) * 8)
    time.sleep(0.02)
"""
    found = outcome(script, tmp_path, Limits(60.0, 400_000_000))
    assert found.status == "memory"
    assert found.reason.endswith("GB of memory, the limit is 0.4 GB")


def test_shared_memory_counts_once(tmp_path: Path) -> None:
    """Loader processes share what they were forked with: eight of them are no eight times as large."""
    script = "import os, time\nkept = os.urandom(1 << 20) * 200\nfor _ in range(3): os.fork()\ntime.sleep(3)"
    assert outcome(script, tmp_path, Limits(60.0, 900_000_000)).status == "ok"


def test_nothing_is_left_wherever_it_hides(tmp_path: Path) -> None:
    """A child, a session of its own, and one whose parent has gone."""
    script = f"""
import subprocess, sys
command = [sys.executable, "-c", {sleeps(tmp_path)!r}]
subprocess.Popen(command)
subprocess.Popen(command, start_new_session=True)
orphan = f"import subprocess; subprocess.Popen({{command!r}}, start_new_session=True)"
subprocess.run([sys.executable, "-c", orphan], check=True)
"""
    assert outcome(script, tmp_path).status == "ok"
    assert sleepers(tmp_path) == []


CELL = "from harness.processes import guard; guard(); import os, subprocess, sys, time\n"
MESSAGE = """print('{"finished": "x"}', flush=True)\n"""
DRIVER = """
import sys, pathlib
from harness.launch import Limits, supervise
from harness.locks import hold
lock, log = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
with hold([lock]) as held:
    command = [sys.executable, "-c", sys.argv[3]]
    supervise(command, log, Limits(100.0, 10**12), lambda _: print("runs", flush=True), held)
"""


ENDLESS = {
    "sleeps": MESSAGE + "time.sleep(1000)",
    "holds the interpreter": "import ctypes\n" + MESSAGE + "ctypes.PyDLL(None).sleep(1000)",
    "is busy beside a fork": "if os.fork(): " + MESSAGE + "while True: pass",
    "left a session": "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)  # MARK'], "
    "start_new_session=True)\n" + MESSAGE + "time.sleep(1000)",
}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("hang", ENDLESS.values(), ids=ENDLESS)
def test_a_cell_ends_with_its_driver(number: signal.Signals, hang: str, tmp_path: Path) -> None:
    """With all that it started, whatever it does; and the lock is free when all are gone."""
    mark = f"groupbench-{number}-{os.getpid()}-{len(hang)}"
    script = f"{CELL}{hang.replace('MARK', mark)}  # {mark}"
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "lock"), str(tmp_path / "log"), script]
    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert driver.stdout.readline() == "runs\n"
    with pytest.raises(Busy, match=f"process {driver.pid} on "), hold([tmp_path / "lock"]):
        pass
    driver.send_signal(number)
    driver.wait(20)
    end = time.monotonic() + 20
    while sleepers(mark):
        assert time.monotonic() < end, "the cell outlived its driver"
        time.sleep(0.05)
    with hold([tmp_path / "lock"]):
        pass


def test_a_child_keeps_the_lock_of_a_driver_that_is_gone(tmp_path: Path) -> None:
    """Whatever becomes of the driver: as long as somebody works on a result, nobody else begins."""
    lock = tmp_path / "lock"
    with hold([lock]) as held:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], pass_fds=held)
    with pytest.raises(Busy), hold([lock]):
        pass
    child.kill()
    child.wait()
    with hold([lock]):
        pass


def test_the_cell_is_given_its_locks(tmp_path: Path) -> None:
    with hold([tmp_path / "lock"]) as held:
        script = f"import os, sys; print(os.fstat({held[0]}).st_ino, file=sys.stderr)"
        found = supervise([sys.executable, "-c", script], tmp_path / "log", AMPLE, lambda _: None, held)
    assert found.log == str((tmp_path / "lock").stat().st_ino)


def test_a_guarded_cell_ends_as_it_would_alone(tmp_path: Path) -> None:
    """The guardian passes status, signal and messages on, and leaves nothing behind."""
    assert outcome(f"{CELL}os._exit(3)", tmp_path).reason == "exit status 3"
    assert outcome(f"{CELL}os.kill(os.getpid(), 11)", tmp_path).reason == "killed by SIGSEGV"
    assert outcome(f"{CELL}os.kill(os.getpid(), 40)", tmp_path).reason == "killed by signal 40"
    script = f"{CELL}subprocess.Popen([sys.executable, '-c', {sleeps(tmp_path)!r}], start_new_session=True)\n{MESSAGE}"
    messages = []
    assert outcome(script, tmp_path, messages=messages).status == "ok"
    assert (messages, sleepers(tmp_path)) == ([{"finished": "x"}], [])


def test_what_is_no_message_is_passed_over(tmp_path: Path) -> None:
    """A file that Python runs at its start may print; names in a reason may be no text."""
    script = """
print("hello")
print('{"step": "train"}')
print('{"failed": "no file \\\\udc80", "memory": false}')
"""
    messages = []
    assert outcome(script, tmp_path, messages=messages).reason == "no file ?"
    assert [list(one) for one in messages] == [["failed", "memory"]]


def test_all_locks_or_none(tmp_path: Path) -> None:
    first, second = tmp_path / "deep" / "first", tmp_path / "second"
    with hold([second]):
        with pytest.raises(Busy), hold([first, second]):
            pass
        with hold([first]):
            pass
    with hold([first, second]):
        pass

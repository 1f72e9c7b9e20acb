"""What the reports of bench/run and bench/hostile have in common: the tools' build, the header."""
import datetime
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys

from server import BENCH, FLOOR, REPO

LOAD = FLOOR.with_name("load")


def output_of(*command):
    done = subprocess.run(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def commit():
    # Own results are not a change of what was measured.
    changed = output_of("git", "status", "--porcelain", "--", ".", ":!bench/results")
    return (output_of("git", "rev-parse", "--short", "HEAD") or "none", "dirty" if changed else "")


def header(command, load_before):
    cpu = re.search(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    head, dirty = commit()
    return [f"- machine: {cpu.group(1) if cpu else platform.machine()}, {os.cpu_count()} cores, "
            f"Linux {platform.release()}, load average before {load_before:.2f}",
            f"- date: {datetime.datetime.now().astimezone().isoformat(timespec='minutes')}",
            f"- commit: {head} {dirty}".rstrip(),
            f"- command: {shlex.join([command] + sys.argv[1:])}"]


def build():
    FLOOR.parent.mkdir(parents=True, exist_ok=True)
    cc = shlex.split(os.environ.get("CC", "cc")) + ["-std=gnu17", "-O2"]
    subprocess.run(cc + ["-Wall", "-Wextra", "-o", LOAD, BENCH / "load.c", BENCH / "load_net.c"],
                   check=True)
    subprocess.run(cc + ["-o", FLOOR, BENCH / "floor.c"], check=True)

"""The faults: what each does to a run."""
import os
import re
import shutil
import signal
import subprocess
import time

from run import LOCKSTEP, RANKS, ROOT, Failed


# Faults. Each does its harm and returns, some of them how long it took to be noticed; what may come of it
# is beside it in the table below.
def kill_rank(run, _):
    os.kill(run.rank(RANKS - 1), signal.SIGKILL)


def kill_first(run, _):
    os.kill(run.rank(0), signal.SIGKILL)


def kill_launcher(run, _):
    os.kill(run.mpirun(), signal.SIGKILL)


def stop_rank(run, rng):
    time.sleep(rng.random() * 0.05)  # somewhere in a step
    os.kill(run.rank(1), signal.SIGSTOP)


def stop_in_save(run, _):
    run.until("a save", run.saving)
    os.kill(run.rank(1), signal.SIGSTOP)


def kill_in_save(run, rng):
    run.until("a save", run.saving)
    time.sleep(rng.random() * 0.02)
    os.kill(run.rank(rng.randrange(RANKS)), signal.SIGKILL)


def damage_newest(run, rng):
    """Kills a rank, and damages the newest checkpoint before the next start looks for it."""
    run.until("a checkpoint to fall back to", lambda: len(run.saved()) > 1)
    run.kill_start(rng)
    newest = run.saved()[-1].parent
    file = rng.choice(sorted(newest.glob("rank-*.h5")))
    with open(file, "r+b") as f:
        f.seek(file.stat().st_size // 2)
        f.write(b"\0" * 4096)
    run.go_on()


def damage_shard(run, rng):
    """The next start refuses the data and is not repeated; with the shard put back the run goes on."""
    shard = min(run.data.glob("train-*.tok"))
    good = shard.read_bytes()
    put(shard, good[:700] + bytes([good[700] ^ 1]) + good[701:])
    began = time.monotonic()
    run.kill_start(rng)
    run.go_on()
    status = run.wait()
    noticed = time.monotonic() - began
    put(shard, good)
    if status != 1:
        raise Failed(f"the run with a damaged shard ended with {status}, not 1")
    run.begin()
    return noticed


def put(path, data):
    """In place of a file that may be mapped."""
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.replace(path)


def plant(kind):
    def harm(run, _):
        run.ask(kind)
    return harm


def move_clock(run, _):
    run.ask("clock", 0)


def move_clock_and_kill(run, rng):
    """What is saved with the wrong time must not count as an hour when the next start has the right one."""
    run.ask("clock", 0)
    saved = run.saved()[-1:]
    run.until("a save", lambda: run.saved()[-1:] != saved)
    kill_rank(run, rng)


def throttle(run, _):
    """A rank gets a tenth of the time until that is told."""
    rank, words = run.rank(1), FAULTS["throttle"].words
    seen = run.text().count(words)
    began = time.monotonic()
    while run.text().count(words) <= seen and time.monotonic() < began + run.patience:
        os.kill(rank, signal.SIGSTOP)
        time.sleep(0.045)
        os.kill(rank, signal.SIGCONT)
        time.sleep(0.005)
    return time.monotonic() - began


def fill_disk(run, _):
    """Until a save has failed."""
    seen = run.text().count("was not saved")
    full = run.runs / "full"
    began = time.monotonic()
    with open(full, "wb", buffering=0) as f:
        try:
            while True:
                f.write(b"\0" * 65536)
        except OSError:
            pass
    run.until("a failed save", lambda: run.text().count("was not saved") > seen)
    noticed = time.monotonic() - began
    full.unlink()
    return noticed


def make_read_only(run, _):
    """The directory of the checkpoints, until a save has failed."""
    seen = run.text().count("was not saved")
    dir = run.dir / "checkpoints"
    subprocess.run(["mount", "--bind", dir, dir], check=True)
    began = time.monotonic()
    # Not while a save has files open there.
    run.until("it to be read-only", lambda: subprocess.run(
        ["mount", "-o", "remount,bind,ro", dir], capture_output=True).returncode == 0)
    run.until("a failed save", lambda: run.text().count("was not saved") > seen)
    noticed = time.monotonic() - began
    subprocess.run(["umount", "--lazy", dir], check=True)
    return noticed


def end_and_begin(run, statuses=(75,)):
    """Waits for the end that was asked for; then the same line again."""
    began = time.monotonic()
    status = run.wait()
    if status not in statuses:
        raise Failed(f"asked to end, the run ended with {status}")
    run.begin()
    return time.monotonic() - began


def ask_in_save(run, _):
    run.until("a save", run.saving)
    run.process.send_signal(signal.SIGTERM)
    return end_and_begin(run)


def ask_twice(run, _):
    """The second time the ranks are ended at once."""
    run.process.send_signal(signal.SIGTERM)
    time.sleep(0.05)
    run.process.send_signal(signal.SIGTERM)
    return end_and_begin(run, (75, 143, 3))


def ask_at_start(run, rng):
    told = run.text().count("supervise: restart")
    run.kill_start(rng)
    run.go_on()
    run.until("the next start", lambda: run.text().count("supervise: restart") > told)
    time.sleep(rng.random() * 0.3)  # of the 0.5 s that it takes
    run.process.send_signal(signal.SIGTERM)
    return end_and_begin(run)


def refuse(run, command, words):
    began = time.monotonic()
    other = subprocess.run([str(c) for c in command], env=run.env, capture_output=True, text=True)
    # Or the run came to its end first, and there was nothing left to do.
    if other.returncode == 0 and re.search(r"at step (\d+) of \1\n", other.stderr):
        return time.monotonic() - began
    if other.returncode != 2 or words not in other.stderr:
        raise Failed(f"a job that should have been refused ended with {other.returncode}: {other.stderr[-800:]}")
    return time.monotonic() - began


def two_jobs(run, _):
    return refuse(run, [ROOT / "launch/mpirun/local.sh", 1, *run.train], "works in this directory")


def wrong_binary(run, _):
    other = run.runs.parent / "lockstep-other"
    shutil.copy(LOCKSTEP, other)
    with open(other, "ab") as f:
        f.write(b"\n")
    of_rank = 'program=$1; [ "$OMPI_COMM_WORLD_RANK" = 0 ] || program=$2; shift 2; exec "$program" "$@"'
    train = [*run.train[1:], "run.name=other"]
    noticed = refuse(run, [ROOT / "launch/mpirun/local.sh", 2, "sh", "-c", of_rank, "sh", LOCKSTEP, other, *train], "executable")
    if (run.runs / "other").exists():
        raise Failed("ranks of two programs have begun a run")
    return noticed


def cut(*links):
    """Takes links of the last host down, whose first is port2, the second port2-1."""
    def harm(run, _):
        for link in links:
            port = f"port{RANKS - 1}" + (f"-{link}" if link else "")
            subprocess.run(["ip", "-n", f"ls-{run.process.pid}-s", "link", "set", port, "down"], check=True)
    return harm


def kill_daemon(run, _):
    os.kill(next(pid for pid, words in run.on_host(RANKS - 1) if words[0].endswith(("orted", "prted"))), signal.SIGKILL)


class Fault:
    """words: that the log must have then; restarts: the run has to be started again for it; links: of each
    host, of those that the fault needs."""

    def __init__(self, what, harm, words="", restarts=True, needs="", links=1):
        self.what, self.harm, self.words, self.restarts, self.needs, self.links = what, harm, words, restarts, needs, links


FAULTS = {
    "kill-rank": Fault("kill -9 of a rank", kill_rank, "restart 1 of"),
    "kill-first": Fault("kill -9 of rank 0", kill_first, "restart 1 of"),
    "kill-launcher": Fault("kill -9 of mpirun", kill_launcher, "restart 1 of"),
    "kill-daemon": Fault("kill -9 of mpirun's daemon on a host", kill_daemon, "restart 1 of", needs="hosts"),
    "cut": Fault("a host cut off: its link goes down", cut(0), "its host does not answer", needs="hosts"),
    "cut-both": Fault("a host of two links cut off: both go down", cut(0, 1), "its host does not answer", needs="hosts",
                      links=2),
    "cut-one": Fault("one of a host's two links goes down", cut(1), "restart 1 of", needs="hosts", links=2),
    "stop-rank": Fault("SIGSTOP of a rank in a step", stop_rank, "its process is stopped"),
    "stop-compute": Fault("SIGSTOP of a rank in a matrix product", plant("compute"), "its process is stopped"),
    "stop-reduce": Fault("SIGSTOP of a rank in an all-reduce", plant("reduce"), "its process is stopped"),
    "stop-save": Fault("SIGSTOP of a rank during a save", stop_in_save, "its process is stopped"),
    "throttle": Fault("a rank that gets a tenth of its processor", throttle, "times as long as the median", False),
    "kill-save": Fault("kill -9 of a rank during a save", kill_in_save, "restart 1 of"),
    "damaged": Fault("kill -9, and the newest checkpoint damaged before the restart", damage_newest, "is skipped"),
    "shard": Fault("kill -9, and a data shard damaged before the restart", damage_shard, "train-00000.tok"),
    "full": Fault("a full disk", fill_disk, "No space left", False, needs="mounts"),
    "read-only": Fault("the checkpoints' directory read-only", make_read_only, "Read-only file system", False,
                       needs="mounts"),
    "flip": Fault("a bit flipped in a rank's weights", plant("flip"), "silent corruption"),
    "state": Fault("a bit flipped in a rank's optimizer state", plant("state"), "silent corruption"),
    "gradient": Fault("a bit flipped in the sum of the gradients on a rank", plant("gradient"),
                      "silent corruption"),
    "nan": Fault("a NaN out of a matrix product of a rank", plant("nan"), "did not repeat", False),
    "memory": Fault("a rank that takes all memory of the job's cgroup", plant("memory"), "for lack of memory",
                    needs="cgroup"),
    "clock": Fault("the clock of rank 0 set back by an hour", move_clock, "", False),
    "clock-kill": Fault("the same, and kill -9 of a rank after the next save", move_clock_and_kill, "restart 1 of"),
    "term-start": Fault("SIGTERM while a start begins", ask_at_start),
    "term-save": Fault("SIGTERM during a save", ask_in_save, "stopped on request"),
    "term-twice": Fault("SIGTERM twice", ask_twice),
    "two-jobs": Fault("a second job in the same directory", two_jobs, "", False),
    "binary": Fault("a job with another binary on one rank", wrong_binary, "", False),
}

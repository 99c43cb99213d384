"""Start several processes that call the same function, and bring back what came of it.

The processes are spawned, never forked: a process that has touched CUDA cannot be forked. They find each other by
the environment that torchrun and `accelerate launch` set too, so that the function need not know who started it.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import distributed

from svcnb import SvcError

HOST = "127.0.0.1"
POLL_SECONDS = 0.2
# After one process has failed, how long the others get to say what they saw, or to save.
GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class _Outcome:
    """How a process ended: "done" with the function's value, or why not."""

    kind: str  # done, refused (SvcError), interrupted, failed (any other error), died (without a word)
    value: Any = None


def is_launched() -> bool:
    """Whether this process is one of several that torchrun, `accelerate launch` or `run_in_processes` started."""
    return distributed.is_available() and (distributed.is_torchelastic_launched() or distributed.is_initialized())


def check_devices(n_processes: int, device: str) -> None:
    """Raise SvcError where `n_processes` cannot run: on CUDA each needs a GPU of its own."""
    if not distributed.is_available():
        raise SvcError("this torch cannot connect processes: choose n_processes=1")
    if device == "cpu" or not torch.cuda.is_available():
        return
    n_gpus = torch.cuda.device_count()
    if n_processes > n_gpus:
        raise SvcError(f"{n_processes} processes need a GPU each, and {n_gpus} is here: "
                       f"choose n_processes={n_gpus}, or device=cpu")  # fmt: skip


def run_in_processes(function: Callable[[], Any], n_processes: int) -> Any:
    """Call `function` in that many new processes of this machine, and wait.

    Ctrl-C and SIGTERM are passed on as one SIGTERM, for the processes to stop together; a second one ends them at
    once. Should this process die, the others are told to stop, too. When one fails, the others are ended.

    Args:
        function: picklable, e.g. functools.partial of a top-level function. A script that calls this needs the
            usual `if __name__ == "__main__":`; a notebook does not.

    Returns:
        what `function` gave in the first process.

    Raises:
        SvcError: raised by `function` in any process (the same error), or a process was killed.
        KeyboardInterrupt: stopped before `function` could give anything back.
        Exception: any other error in a process; its traceback is in the error's notes.
    """
    with _members(function, n_processes) as members, stop_requests() as stop:
        _follow(members, stop)
        return _value(members, stopped=stop.is_set())


class _Member:
    """One started process, and the line to it: what it says at last comes back, and a stop request goes out."""

    def __init__(self, rank: int, process: BaseProcess, line: Connection) -> None:
        self.rank = rank
        self.process = process
        self.line = line
        self.outcome: _Outcome | None = None
        self.ended_at = 0.0

    def look(self) -> None:
        """Take what it said, or find that it is gone."""
        if self.outcome is not None or not self.line.poll():
            return
        try:
            self.outcome = self.line.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            self.outcome = _Outcome("died")
        self.ended_at = time.monotonic()

    def ask_to_stop(self) -> None:
        try:
            self.line.send("stop")
        except (BrokenPipeError, ConnectionResetError):
            return  # it has ended meanwhile; `look` tells how


@contextmanager
def _members(function: Callable[[], Any], n_processes: int) -> Iterator[list[_Member]]:
    """The started processes; none is left at the end."""
    context = multiprocessing.get_context("spawn")
    # The store where they meet lives here: the port is free for certain, and nobody waits for a dead first process.
    store = distributed.TCPStore(HOST, 0, is_master=True, wait_for_workers=False, use_libuv=False)
    members: list[_Member] = []
    try:
        for rank in range(n_processes):
            ours, theirs = context.Pipe()
            environment = _environment(rank, n_processes, store.port)
            process = context.Process(target=_run_member, args=(function, environment, theirs))
            # Inherited: a new process must not die of ctrl-C before it listens, and libraries count threads as they load.
            with _deaf_to_ctrl_c(), _variable("OMP_NUM_THREADS", environment["OMP_NUM_THREADS"]):
                process.start()
            theirs.close()
            members.append(_Member(rank, process, ours))
        yield members
    finally:
        for member in members:
            _end(member)


def _end(member: _Member) -> None:
    if member.outcome is None:
        member.process.kill()
    member.process.join(GRACE_SECONDS)
    if member.process.is_alive():
        member.process.kill()
        member.process.join()
    member.line.close()


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """An environment variable for the processes started meanwhile."""
    usual = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if usual is None:
            del os.environ[name]
        else:
            os.environ[name] = usual


def _environment(rank: int, n_processes: int, port: int) -> dict[str, str]:
    """What torchrun sets, as torch and accelerate read it."""
    n_threads = max(1, torch.get_num_threads() // n_processes)
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(n_processes), "LOCAL_WORLD_SIZE": str(n_processes),
        "MASTER_ADDR": HOST, "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "svcnb", "TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": str(n_threads),
    }  # fmt: skip


def _follow(members: list[_Member], stop: threading.Event) -> None:
    """Until all have ended, or one has failed and the others had their grace."""
    asked = False
    while running := [member for member in members if member.outcome is None]:
        wait([member.line for member in running], timeout=POLL_SECONDS)
        for member in running:
            member.look()
        if stop.is_set() and not asked:
            asked = True
            for member in running:
                member.ask_to_stop()
        failures = [member.ended_at for member in members if member.outcome and member.outcome.kind != "done"]
        if failures and time.monotonic() - min(failures) > GRACE_SECONDS:
            return


def _value(members: list[_Member], *, stopped: bool) -> Any:
    """The first process's value, or the error that tells most: who fails later often only misses the first."""
    ended = sorted((member for member in members if member.outcome), key=lambda member: member.ended_at)
    first: dict[str, _Member] = {}
    for member in ended:
        first.setdefault(member.outcome.kind, member)
    if "refused" in first:
        raise first["refused"].outcome.value
    lost = members[0].outcome is None or members[0].outcome.kind == "died"
    if "interrupted" in first or (stopped and lost):
        raise KeyboardInterrupt
    if "died" in first:
        code = first["died"].process.exitcode
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise SvcError(f"process {first['died'].rank} of {len(members)} (counted from 0) {how}, perhaps because memory "
                       "ran out: what was saved is kept; resume, with a smaller batch_size or fewer processes")  # fmt: skip
    if "failed" in first:
        raise first["failed"].outcome.value
    return members[0].outcome.value


# ---------------------------------------------------------------------------------------------- in the new process


def _run_member(function: Callable[[], Any], environment: dict[str, str], line: Connection) -> None:
    """What a new process does: call the function and say what came of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # reaches the whole group on ctrl-C; the starter passes it on
    signal.signal(signal.SIGTERM, _interrupt)  # until the function listens itself
    threading.Thread(target=_listen, args=(line,), daemon=True).start()
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    is_main = environment["RANK"] == "0"
    if not is_main:
        logging.getLogger("svcnb").setLevel(logging.ERROR)  # the first one warns for all
    try:
        value = function()
        outcome = _Outcome("done", value if is_main else None)
    except SvcError as error:
        outcome = _Outcome("refused", error)
    except KeyboardInterrupt:
        outcome = _Outcome("interrupted")
    except Exception as error:
        line.send(_Outcome("failed", _portable(error)))
        raise SystemExit(1) from None  # the starter raises the error again
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    line.send(outcome)
    if outcome.kind == "done" and distributed.is_initialized():
        distributed.destroy_process_group()


def _portable(error: Exception) -> Exception:
    """The error with its traceback as a note; as RuntimeError where its kind cannot travel."""
    told = f"in a process of its own:\n{traceback.format_exc()}"
    try:
        sent = pickle.loads(pickle.dumps(error))
    except (pickle.PickleError, TypeError, AttributeError):
        return RuntimeError(told)
    sent.add_note(told)
    return sent


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _listen(line: Connection) -> None:
    """Turn the starter's stop request, or its death, into a SIGTERM of this process."""
    try:
        line.recv()
    except (EOFError, ConnectionResetError):
        pass
    signal.raise_signal(signal.SIGTERM)


@contextmanager
def stop_requests(*, second_acts: bool = True) -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM as an event that is read between steps; a second one acts at once.

    Args:
        second_acts: False where a launcher passes signals on, so that one wish may come twice: the second may also
            come after the end of the training, so signals then stay ignored.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals never reach other threads
        return
    usual = {number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, _frame: object) -> None:
        if second_acts:
            signal.signal(number, usual[number])
        stop.set()

    for number in usual:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler if second_acts else signal.SIG_IGN)

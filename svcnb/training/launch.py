"""Several processes that call the same function, started by torch.multiprocessing; and requests to stop.

The processes are spawned, never forked: a process that has touched CUDA cannot be forked. They find each other by
the environment that torchrun and `accelerate launch` set too, so that the function need not know who started it.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing import (
    ProcessContext,
    ProcessExitedException,
    ProcessRaisedException,
    start_processes,
)

from svcnb import SvcError

HOST = "127.0.0.1"
POLL_SECONDS = 0.2
GRACE_SECONDS = 10.0  # after one process has failed, how long the others get to end by themselves, or to save
VALUE, REFUSAL = "value", "refusal"  # files in which a process leaves what came of it


def is_launched() -> bool:
    """Whether this process is one of several that torchrun, `accelerate launch` or `run_in_processes` started."""
    return distributed.is_available() and (
        distributed.is_torchelastic_launched() or distributed.is_initialized()
    )


def check_devices(n_processes: int, device: str) -> None:
    """Raise SvcError where `n_processes` cannot run: on CUDA each needs a GPU of its own."""
    if not distributed.is_available():
        raise SvcError("this torch cannot connect processes: choose n_processes=1")
    if device == "cpu" or not torch.cuda.is_available():
        return
    n_gpus = torch.cuda.device_count()
    if n_processes > n_gpus:
        raise SvcError(
            f"{n_processes} processes need a GPU each, and {n_gpus} is here: "
            f"choose n_processes={n_gpus}, or device=cpu"
        )


def run_in_processes(function: Callable[[], Any], n_processes: int) -> Any:
    """Call `function` in that many new processes of this machine, and wait.

    Ctrl-C and SIGTERM are passed on as one SIGTERM, for the processes to stop together; a second one ends them at
    once. Should this process die, the others are interrupted too (on Linux). When one fails, the others are ended.

    Args:
        function: picklable, e.g. functools.partial of a top-level function. A script that calls this needs the
            usual `if __name__ == "__main__":`; a notebook does not.

    Returns:
        what `function` gave in the first process.

    Raises:
        SvcError: raised by `function` in any process (the same error), or a process was killed.
        KeyboardInterrupt: stopped before `function` could give anything back.
        ProcessRaisedException: any other error in a process, with its traceback as text.
    """
    with tempfile.TemporaryDirectory() as folder, stop_requests() as stop:
        value = Path(folder) / VALUE
        try:
            _run_all(function, n_processes, folder, stop)
        except (ProcessExitedException, ProcessRaisedException) as error:
            # Who fails later often only misses the first.
            refusals = sorted(Path(folder).glob(f"{REFUSAL}*"), key=lambda path: path.stat().st_mtime_ns)
            if refusals:
                raise pickle.loads(refusals[0].read_bytes()) from None
            if stop.is_set() and not value.exists():
                raise KeyboardInterrupt from None
            if isinstance(error, ProcessExitedException):
                raise SvcError(_how_it_died(error, n_processes)) from error
            raise
        if not value.exists():
            raise KeyboardInterrupt
        return pickle.loads(value.read_bytes())


def _run_all(function: Callable[[], Any], n_processes: int, folder: str, stop: threading.Event) -> None:
    """Start the processes, pass one request to stop on to them, and return when all have ended; none is left."""
    from accelerate.utils import patch_environment

    # The store where they meet is here: the port is free for certain, and nobody waits for a dead first process.
    store = distributed.TCPStore(HOST, 0, is_master=True, wait_for_workers=False, use_libuv=False)
    with patch_environment(**_environment(n_processes, store.port)), _ctrl_c_ignored():
        members = start_processes(_run_member, (function, folder, os.getpid()), n_processes, join=False)
    try:
        asked = False
        while not members.join(POLL_SECONDS, GRACE_SECONDS):
            if stop.is_set() and not asked:
                asked = True
                for process in members.processes:
                    process.terminate()
    finally:
        _end(members)


def _end(members: ProcessContext) -> None:
    for process in members.processes:
        process.kill()
        process.join()


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """Inherited by processes that start meanwhile: they must not die of it with a traceback before they listen."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


def _environment(n_processes: int, port: int) -> dict[str, str]:
    """What torchrun sets for all, as torch and accelerate read it; libraries count threads as they load."""
    return {
        "WORLD_SIZE": str(n_processes),
        "LOCAL_WORLD_SIZE": str(n_processes),
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "svcnb",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // n_processes)),
    }


def _how_it_died(error: ProcessExitedException, n_processes: int) -> str:
    code = error.exit_code
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return (
        f"process {error.error_index} of {n_processes} (counted from 0) {how}, perhaps because memory ran out: "
        "what was saved is kept; resume, with a smaller batch_size or fewer processes"
    )


def _run_member(rank: int, function: Callable[[], Any], folder: str, starter: int) -> None:
    """What a new process does: call the function and leave what came of it as a file."""
    for number in (signal.SIGINT, signal.SIGTERM):  # until the function listens itself
        signal.signal(number, _interrupt)
    if hasattr(os, "getppid") and os.getppid() != starter:
        raise KeyboardInterrupt  # it died while this process started: its death was not signalled
    os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank)})
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if rank:
        logging.getLogger("svcnb").setLevel(logging.ERROR)  # the first one warns for all
    try:
        value = function()
    except SvcError as error:
        _leave(Path(folder) / f"{REFUSAL}{rank}", error)
        sys.exit(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if rank == 0:
        _leave(Path(folder) / VALUE, value)
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _leave(path: Path, content: Any) -> None:
    unfinished = path.with_name(f"unfinished-{path.name}")
    unfinished.write_bytes(pickle.dumps(content))
    unfinished.replace(path)


def _interrupt(_number: int, _frame: object) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # one wish may come as both
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


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

"""Processes that turn files into pixels while the network is busy.

Pixels travel through shared memory, cut into slots of one image each; what goes through
pipes are numbers of slots. All processes take the next number from one pipe, so that
each has work as long as there is any, and nobody hands it out. There are as many jobs
under way as slots: the read-ahead is bounded.

A process of this kind starts in a tenth of the time that the package takes, holds no
lock and no thread of its parent, and ends with it, however that ends.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import subprocess
import sys
import tempfile
import weakref
from collections import deque
from collections.abc import Generator, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyflow.data.base import DataError
from tinyflow.data.picture import Job
from tinyflow.data.worker import WIDTH

TEXT = 2**14
"""Bytes of the smallest slot: a job, or a sentence, must fit."""
SLOTS = 2**11
"""Most of them: a pipe must hold the numbers of all."""
MEMORY = 2**28
"""Bytes of all slots, unless two for each worker take more."""
LOOK = 500
"""Milliseconds without an answer after which it is looked whether all are alive."""
POSSIBLE = os.name == "posix"
"""Whether open files can be handed to a process here."""

Made = NDArray[np.uint8] | str
"""Pixels, valid until the next are asked for; or the sentence why there are none."""


class Pool:
    """Workers, and the memory they share with us.

    Args:
        workers: processes, at least 1.
        ahead: images to be made before they are asked for, if memory allows.
        shape: of an image, (C, S, S), or of its ten crops.

    Raises:
        DataError: they cannot be started here.
    """

    def __init__(self, workers: int, ahead: int, shape: tuple[int, ...]) -> None:
        if not POSSIBLE or not sys.executable:
            raise DataError(
                "Images cannot be decoded in other processes here: use 0 workers."
            )
        self.shape, self.size = shape, int(np.prod(shape))
        self.slot = max(TEXT, self.size)
        self.slots = min(SLOTS, max(2 * workers, min(ahead, MEMORY // self.slot)))
        self.processes: list[subprocess.Popen[bytes]] = []
        held = contextlib.ExitStack()
        self._end = weakref.finalize(self, _stop, self.processes, held)
        try:
            self._start(workers, held)
        except OSError as error:
            self.close()
            raise DataError(
                f"{workers} processes that decode images, and "
                f"{self.slots * self.slot / 1e6:.0f} MB that they share, cannot be had "
                f"({error.strerror or error}): use fewer workers, or 0."
            ) from error

    def _start(self, workers: int, held: contextlib.ExitStack) -> None:
        memory = _memory(self.slots * self.slot)
        held.callback(os.close, memory)
        jobs, self._jobs = os.pipe()
        self._answers, answers = os.pipe()
        theirs = memory, jobs, answers
        for file in (jobs, self._jobs, self._answers, answers):
            held.callback(os.close, file)
        self._memory = mmap.mmap(memory, self.slots * self.slot)
        script = Path(__file__).with_name("worker.py")
        told = [json.dumps([*map(str, sys.path)]), *map(str, (self.slot, *theirs))]
        # Theirs is one thread each: the cores are shared already.
        environment = {
            **os.environ,
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        for _ in range(workers):
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-P", str(script), *told],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                    pass_fds=theirs,
                    process_group=0,  # a terminal's Ctrl-C is for us
                )
            )

    def run(self, jobs: Iterable[Job]) -> Generator[Made, None, None]:
        """What comes of each job, in their order.

        One run at a time; after one that was left early, the pool is of no more use.

        Raises:
            DataError: a worker has ended by itself.
        """
        coming = iter(jobs)
        free, asked = list(range(self.slots)), deque[int]()
        done: dict[int, bool] = {}  # slots, and whether each failed
        while True:
            for job in coming:
                slot = free.pop()
                self._ask(slot, job)
                asked.append(slot)
                if not free:
                    break
            if not asked:
                return
            slot = asked.popleft()
            while slot not in done:
                answer = self._answer()
                done[answer >> 1] = bool(answer & 1)
            yield self._text(slot) if done.pop(slot) else self._pixels(slot)
            free.append(slot)

    def _ask(self, slot: int, job: Job) -> None:
        text = json.dumps(job).encode()
        if len(text) > self.slot - WIDTH:
            name = os.fsdecode(bytes.fromhex(job.file[:80]))
            raise DataError(
                f"{name}… is no name of a file: it has {len(job.file) // 2:,} bytes."
            )
        begin = slot * self.slot
        self._memory[begin : begin + WIDTH] = len(text).to_bytes(WIDTH, "little")
        self._memory[begin + WIDTH : begin + WIDTH + len(text)] = text
        os.write(self._jobs, slot.to_bytes(WIDTH, "little"))

    def _answer(self) -> int:
        """The next number that comes."""
        ready = select.poll()
        ready.register(self._answers, select.POLLIN)
        while not ready.poll(LOOK):
            for process in self.processes:
                if (code := process.poll()) is not None:
                    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
                    raise DataError(
                        f"A process that decodes images was ended {how}, perhaps for "
                        "want of memory: use fewer workers, or 0 to see more."
                    )
        return int.from_bytes(os.read(self._answers, WIDTH), "little")

    def _pixels(self, slot: int) -> NDArray[np.uint8]:
        found = np.frombuffer(self._memory, np.uint8, self.size, slot * self.slot)
        return found.reshape(self.shape)

    def _text(self, slot: int) -> str:
        begin = slot * self.slot
        length = int.from_bytes(self._memory[begin : begin + WIDTH], "little")
        return self._memory[begin + WIDTH : begin + WIDTH + length].decode()

    def close(self) -> None:
        """End the workers at once; they have nothing to lose."""
        self._end()


def _memory(size: int) -> int:
    """An open file without a name that holds so many bytes, in memory if possible."""
    if hasattr(os, "memfd_create"):  # /dev/shm may be far smaller than memory
        file = os.memfd_create("tinyflow")
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, size)  # what is lacking is said now
        else:
            os.truncate(file, size)
    except OSError:
        os.close(file)
        raise
    return file


def _stop(processes: list[subprocess.Popen[bytes]], held: contextlib.ExitStack) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
    held.close()

"""The process beside each training process that tells the others when it dies; started by `roll_call.py`.

A program of its own, with nothing but the standard library, because a training process that dies cannot say so, one
that hangs in a collective cannot listen, and one whose coordinator is gone is ended by JAX at once.  It learns of the
end of its process as the end of its standard input, which the kernel closes however that process ends.

Watchers form a star round that of process 0.  Each line they send is one of

    hello TOKEN INDEX NAME        the first one to process 0
    left                          my process ended well; or: you were the first to die
    died                          my process ended without a word
    failed WORDS                  my process ended with this error
    lost SENTENCE                 from process 0: somebody died or failed, the run is over
    (nothing)                     sign of life

A connection that ends without `left`, or is silent for too long, is a process that died together with its watcher (the
machine went down, a whole job was killed).  On `lost` a watcher prints the sentence and ends its process.
"""

import abc
import contextlib
import json
import os
import select
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import NoReturn

LINGER = 5.0  # seconds: for news of who was the first, and for a process that was told to end


class Lines:
    """The lines of a socket or pipe."""

    def __init__(self, read: Callable[[int], bytes], write: Callable[[bytes], object]):
        self._read, self._write, self._rest = read, write, b""
        self.heard = time.monotonic()

    def receive(self) -> tuple[list[str], bool]:
        """The lines that have come, and whether more can come."""
        try:
            data = self._read(65536)
        except OSError:
            data = b""
        self.heard = time.monotonic()
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode("utf-8", "replace") for line in lines], bool(data)

    def send(self, line: str) -> None:
        """Sends a line; that the other end is gone is noticed by reading."""
        with contextlib.suppress(OSError):
            self._write(line.replace("\n", " ").encode() + b"\n")


def over(connection: socket.socket) -> Lines:
    """The lines of a connection."""
    return Lines(connection.recv, connection.sendall)


class Watcher(abc.ABC):
    """What all watchers do.

    Args:
      index, count: of the process.
      pid: its id.
      name: where it runs, for a person.
      hub_name: the same of process 0.
      token: what only the processes of this run know.
      beat: seconds between signs of life.
      limit: seconds of silence after which a peer counts as dead.
    """

    def __init__(
        self, index: int, count: int, pid: int, name: str, hub_name: str, token: str, beat: float, limit: float
    ):
        self.index, self.count, self.pid, self.name, self.hub_name = index, count, pid, name, hub_name
        self.token, self.beat, self.limit = token, beat, limit
        self.process = Lines(lambda size: os.read(0, size), lambda data: os.write(1, data))
        self.ended: str | None = None  # the word the own process ended with
        self.selector = selectors.DefaultSelector()
        self.selector.register(0, selectors.EVENT_READ, self.hear_process)

    def run(self) -> None:
        """Watches until the own process has left."""
        due = time.monotonic() + self.beat
        while self.ended is None:
            for key, _ in self.selector.select(max(0.0, due - time.monotonic())):
                key.data()
            if time.monotonic() >= due:
                due = time.monotonic() + self.beat
                self.sign_of_life()

    def hear_process(self) -> None:
        lines, is_open = self.process.receive()
        if lines or not is_open:
            self.ended = lines[0] if lines else "died"
            self.selector.unregister(0)
            self.tell(self.ended)

    def sentence(self, index: int, name: str, how: str) -> str:
        """What a person reads: `multihost: process 1 of 4 (pid 4711 on host7) died`."""
        return f"multihost: process {index} of {self.count} ({name}) {how.replace('failed ', 'ended: ', 1)}"

    def end(self, sentence: str) -> NoReturn:
        """Says that the run is lost, and ends the own process if it does not end by itself."""
        if self.ended is None or self.ended == "died":  # one that failed has said so itself
            print(f"vdm: {sentence}", file=sys.stderr, flush=True)
        self.process.send("lost")
        if self.ended is None:
            deadline = time.monotonic() + LINGER
            while select.select([0], [], [], max(0.0, deadline - time.monotonic()))[0]:
                if not self.process.receive()[1]:
                    break
            else:
                if os.getppid() == self.pid:
                    os.kill(self.pid, signal.SIGKILL)
        sys.exit(1)

    @abc.abstractmethod
    def tell(self, word: str) -> None:
        """Passes on how the own process ended."""

    @abc.abstractmethod
    def sign_of_life(self) -> None:
        """Gives one, and looks for those of the others."""


class Hub(Watcher):
    """The watcher of process 0; says `port N` on its standard output."""

    def __init__(self, **options):
        super().__init__(**options)
        self.spokes: dict[int, tuple[str, Lines]] = {}
        self.server = socket.create_server(("", 0), backlog=self.count)
        self.selector.register(self.server, selectors.EVENT_READ, self.accept)
        self.process.send(f"port {self.server.getsockname()[1]}")

    def accept(self) -> None:
        connection, _ = self.server.accept()
        self.selector.register(connection, selectors.EVENT_READ, lambda: self.hear(connection, link, known))
        link, known = over(connection), []

    def hear(self, connection: socket.socket, link: Lines, known: list[int]) -> None:
        lines, is_open = link.receive()
        if not known and lines:
            word, _, rest = lines.pop(0).partition(f" {self.token} ")
            index, _, name = rest.partition(" ")
            if word == "hello" and index.isdigit():
                known.append(int(index))
                self.spokes[known[0]] = (name, link)
            else:
                is_open = False  # a stranger
        if not is_open:
            self.selector.unregister(connection)
            connection.close()
        for index in known:
            words = [line for line in lines if line] + ([] if is_open else ["died"])
            if words and index in self.spokes:
                name, _ = self.spokes[index]
                if words[0] == "left":
                    del self.spokes[index]
                else:
                    self.lose(index, name, words[0])

    def tell(self, word: str) -> None:
        if word != "left":
            self.lose(self.index, self.name, word)
        for _, link in self.spokes.values():
            link.send("left")

    def lose(self, index: int, name: str, how: str) -> NoReturn:
        """The run is over, because of that process."""
        sentence = self.sentence(index, name, how)
        for spoke, (_, link) in self.spokes.items():
            link.send("left" if spoke == index else f"lost {sentence}")
        if index == self.index:
            sys.exit(1)
        self.end(sentence)

    def sign_of_life(self) -> None:
        for index, (name, link) in list(self.spokes.items()):
            link.send("")
            if time.monotonic() - link.heard > self.limit:
                self.lose(index, name, f"gave no sign of life for {self.limit:g} s")


class Spoke(Watcher):
    """The watcher of any other process; says `joined`, or `alone WHY`, on its standard output."""

    def __init__(self, host: str, port: int, **options):
        super().__init__(**options)
        try:
            connection = socket.create_connection((host, port), timeout=10)
        except OSError as error:
            self.process.send(f"alone {error.strerror or error}")
            sys.exit(1)
        connection.settimeout(None)
        self.link, self.hub_left = over(connection), False
        self.selector.register(connection, selectors.EVENT_READ, lambda: self.hear(connection))
        self.link.send(f"hello {self.token} {self.index} {self.name}")
        self.process.send("joined")

    def hear(self, connection: socket.socket) -> None:
        lines, is_open = self.link.receive()
        for line in lines:
            if line.startswith("lost "):
                self.end(line.removeprefix("lost "))
            self.hub_left |= line == "left"
        if not is_open:
            self.selector.unregister(connection)
            if not self.hub_left:
                self.end(self.sentence(0, self.hub_name, "died"))

    def tell(self, word: str) -> None:
        self.link.send(word)
        deadline = time.monotonic() + (0.0 if word == "left" else LINGER)
        while not self.hub_left and (left := deadline - time.monotonic()) > 0:  # perhaps another one died before
            for key, _ in self.selector.select(left):
                key.data()

    def sign_of_life(self) -> None:
        self.link.send("")
        if not self.hub_left and time.monotonic() - self.link.heard > self.limit:
            self.end(self.sentence(0, self.hub_name, f"gave no sign of life for {self.limit:g} s"))


def main(text: str) -> None:
    """Watches, as the JSON `text` says: the arguments of `Hub` or, with `host` and `port`, of `Spoke`."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # meant for the process, which may want to save
        signal.signal(number, signal.SIG_IGN)
    options = json.loads(text)
    (Spoke if "port" in options else Hub)(**options).run()


if __name__ == "__main__":
    main(sys.argv[1])

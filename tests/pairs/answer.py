"""A server of the tests of pairs: TCP and UDP on two ports, over both families. Says who asked, as it sees it.

A TCP connection begins with one line: `who` is answered with this instance's name and the caller's address; `send N`
with N bytes; `take N` reads N bytes and answers with their digest. A datagram is answered with itself.
"""

import hashlib
import os
import socket
import socketserver
import sys
import threading

OPEN, SHUT = 8080, 9090
"""What policy lets the clients reach, and what it does not."""


BLOCK = bytes(range(251)) * 263
"""Of a length that divides nothing: a piece that is lost or comes twice is seen."""


def content(size: int) -> bytes:
    return (BLOCK * (size // len(BLOCK) + 1))[:size]


class Stream(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        word, _, number = self.rfile.readline().decode().strip().partition(" ")
        if word == "who":
            caller = self.client_address[0].removeprefix("::ffff:")
            self.wfile.write(f"{os.uname().nodename} {caller}".encode())
        elif word == "send":
            self.wfile.write(content(int(number)))
        elif word == "take":
            self.wfile.write(hashlib.sha256(self.rfile.read(int(number))).hexdigest().encode())


class Datagram(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        asked, own = self.request
        own.sendto(asked, self.client_address)


class Streams(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


class Datagrams(socketserver.ThreadingUDPServer):
    address_family = socket.AF_INET6
    daemon_threads = True
    max_packet_size = 65535


def main() -> None:
    for port in (OPEN, SHUT):
        for server in (Streams(("::", port), Stream), Datagrams(("::", port), Datagram)):
            threading.Thread(target=server.serve_forever, daemon=True).start()
    print("answering", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    sys.exit(main())

"""Runs in a guest as a service of systemd: runs the commands that come in at a virtio-serial port, one after another.

A request is a line of JSON, `{"command": …, "timeout": seconds}`; so is the answer, `{"status": …, "output": …}`.
"""

import json
import os
import signal
import subprocess
import sys
import time

PLACE = "/checkout"


def answer(request):
    """Both outputs as one; 124 if it took too long, as timeout(1) has it."""
    argv = ["/bin/sh", "-c", request["command"]]
    with subprocess.Popen(
        argv, cwd=PLACE, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0
    ) as running:
        try:
            output, status = running.communicate(timeout=request["timeout"])[0], running.returncode
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            output, status = running.communicate()[0], 124
    return {"status": status, "output": output.decode(errors="replace")}


def requests(port):
    """One line after another. While nobody is connected at the other end, reading says that the file has ended."""
    data = b""
    while True:
        if not (received := os.read(port, 1 << 16)):
            time.sleep(0.2)
        data += received
        while b"\n" in data:
            line, data = data.split(b"\n", 1)
            yield json.loads(line)


def tell(port, message):
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(port, data) :]


only = os.open(sys.argv[1], os.O_RDWR)  # a port can be opened once
tell(only, {"booted": True})
for one in requests(only):
    tell(only, answer(one))

#!/usr/bin/python3
"""Measures and prints for scripts/bench. Samples are lines of a file: name, metric, value.

measure.py time SAMPLES ROUNDS RESET [NAME COMMAND]...  run commands in turn; wall, cpu, peak
measure.py table SAMPLES METRIC=HEADING:DIGITS[*N]...   medians (least to greatest), as markdown
measure.py goals SAMPLES <GOALS                         ratios of medians beside what they should be
measure.py echo PORT                                    a server that sends back what it gets
measure.py latency PORT COUNT                           median round trip of one byte, microseconds
measure.py idle PORT COUNT PID                          private kB that each idle connection adds
measure.py private PID                                  private kB of a runtime and its processes
"""

import os
import selectors
import shlex
import socket
import statistics
import sys
import time


def time_commands(samples, rounds, reset, *cases):
    """One round warms up and does not count. RESET runs before each command, outside the time."""
    commands = [(n, shlex.split(c)) for n, c in zip(cases[::2], cases[1::2])]
    for number in range(int(rounds) + 1):
        for name, command in commands:
            if reset:
                run(shlex.split(reset))
            wall, used = run(command)
            if number > 0:
                record(samples, name, "wall", wall)
                record(samples, name, "cpu", used.ru_utime + used.ru_stime)
                record(samples, name, "peak", used.ru_maxrss * 1024 / 1e6)


def run(command):
    """Wall time in seconds, and what the process and the children that it waited for used."""
    log = os.open(os.environ["TMPDIR"] + "/log", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    null = os.open("/dev/null", os.O_RDONLY)
    actions = [(os.POSIX_SPAWN_DUP2, null, 0)]
    actions += [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
    begin = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
    _, status, used = os.wait4(pid, 0)
    wall = time.perf_counter() - begin
    if status != 0:
        output = os.pread(log, 4000, 0).decode(errors="replace")
        sys.exit(f"bench: status {os.waitstatus_to_exitcode(status)}: {shlex.join(command)}\n{output}")
    os.close(log)
    os.close(null)
    return wall, used


def record(samples, name, metric, value):
    with open(samples, "a") as file:
        print(name, metric, value, sep="\t", file=file)


def read(samples):
    found = {}
    for line in open(samples):
        name, metric, value = line.rstrip("\n").split("\t")
        found.setdefault(name, {}).setdefault(metric, []).append(float(value))
    return found


def table(samples, *columns):
    columns = [(m, *rest.rsplit(":", 1)) for m, rest in (c.split("=") for c in columns)]
    print("| |" + "".join(f" {heading} |" for _, heading, _ in columns))
    print("|---|" + "---|" * len(columns))
    for name, metrics in read(samples).items():
        cells = [spread(metrics.get(metric), digits) for metric, _, digits in columns]
        if any(cells):
            print(f"| {name} |" + "".join(f" {cell} |" for cell in cells))


def spread(values, digits):
    if not values:
        return ""
    digits, _, factor = digits.partition("*")
    values = [v * float(factor or 1) for v in values]
    show = [f"{v:.{digits}f}" for v in (statistics.median(values), min(values), max(values))]
    return f"{show[0]} ({show[1]}–{show[2]})" if len(values) > 1 else show[0]


def goals(samples):
    """Lines of `what | name:metric [/ or - name:metric] | <= or >= | limit | unit`."""
    found = read(samples)
    print("| goal | reach | measured | |\n|---|---|---|---|")
    for line in sys.stdin:
        what, value, relation, limit, unit = (part.strip() for part in line.split("|"))
        result = evaluate(found, value)
        reached = result <= float(limit) if relation == "<=" else result >= float(limit)
        sign, unit = "≤≥"[relation == ">="], f" {unit}" if unit else ""
        shown = f"{result:.{3 if result < 0.1 else 2 if result < 10 else 0}f}{unit}"
        print(f"| {what} | {sign} {limit}{unit} | {shown} | {'reached' if reached else '**missed**'} |")


def evaluate(found, text):
    for sign, apply in ((" / ", lambda a, b: a / b), (" - ", lambda a, b: a - b)):
        if sign in text:
            one, other = text.split(sign)
            return apply(evaluate(found, one), evaluate(found, other))
    name, metric = text.rsplit(":", 1)
    return statistics.median(found[name][metric])


def echo(port):
    poll = selectors.DefaultSelector()
    listener = socket.create_server(("", int(port)), backlog=4096)
    poll.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in poll.select():
            if key.fileobj is listener:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                poll.register(connection, selectors.EVENT_READ)
                continue
            try:
                data = key.fileobj.recv(4096)
            except ConnectionError:
                data = b""
            if data:
                key.fileobj.sendall(data)
            else:
                poll.unregister(key.fileobj)
                key.fileobj.close()


def connect(port):
    """A connection that reaches the server: one byte has come back."""
    connection = socket.create_connection(("127.0.0.1", int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    round_trip(connection)
    return connection


def round_trip(connection):
    connection.send(b"x")
    if connection.recv(1) != b"x":
        sys.exit("bench: the echo server's answer did not come back")


def latency(port, count):
    connection = connect(port)
    times = []
    for _ in range(int(count)):
        begin = time.perf_counter()
        round_trip(connection)
        times.append(time.perf_counter() - begin)
    print(statistics.median(times) * 1e6)


def idle(port, count, pid):
    warm = [connect(port) for _ in range(10)]
    before = sum(private_kb(p) for p in tree(int(pid)))
    connections = [connect(port) for _ in range(int(count))]
    time.sleep(0.5)
    after = sum(private_kb(p) for p in tree(int(pid)))
    print((after - before) / len(connections))
    del warm


def private(pid):
    """Without the container's own command and the shell that started the runtime."""
    print(sum(private_kb(p) for p in tree(int(pid)) if program(p) not in ("bash", "busybox")))


def tree(root):
    """A process and its descendants."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = open(f"/proc/{entry}/stat").read()
            except OSError:
                continue
            parents[int(entry)] = int(stat.rsplit(")", 1)[1].split()[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def program(pid):
    return os.path.basename(os.readlink(f"/proc/{pid}/exe"))


def private_kb(pid):
    try:
        lines = open(f"/proc/{pid}/smaps_rollup").read().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


COMMANDS = {
    "time": time_commands, "table": table, "goals": goals, "echo": echo,
    "latency": latency, "idle": idle, "private": private,
}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    COMMANDS[sys.argv[1]](*sys.argv[2:])

"""The bench: runs scenarios against Poplar and its peers, interleaved, and prints a table.

Started by run.sh in namespaces of its own, as root. Each round asks every server once; figures are
medians over the rounds, with the smallest and the largest. What is measured of a server is the
processor time of its whole process tree, the dead included, and what the client saw."""

import argparse
import contextlib
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support"), str(HERE.parent / "system")]

import conftest  # noqa: E402
import mail  # noqa: E402
import peers  # noqa: E402
import poplar  # noqa: E402

LOGIN = "greeting user pass stat quit"
POLL = "greeting capa user pass stat uidl quit"
DRAIN = "greeting user pass stat retr quit"
DELETE = "greeting user pass stat retr dele quit"
TOP = "greeting user pass stat top quit"
LISTING = "greeting user pass stat uidl list quit"


class Failure(Exception):
    """A server did not do what it was asked."""


@dataclass
class Scenario:
    name: str
    script: str
    figure: str           # what is compared: a key of what run() returns
    kind: str = "u"       # of maildrops
    users: int = 32
    concurrency: int = 4
    tls: str = "none"
    pipeline: bool = False
    spread: bool = False  # deliveries of a session go to several users in turn
    sessions: int = 0     # 0: for so many seconds
    refill: str = ""      # "all": fresh maildrops before each run; "first": one never seen before
    title: str = ""
    target: tuple = ()    # at most / at least, of the ratio to the strongest Dovecot
    peers: tuple = ("dovecot-strongest", "popa3d")
    also: dict = field(default_factory=dict)  # other figures with targets


# Where its other modes are of interest; elsewhere the strongest set-ups speak for Dovecot.
EVERY_MODE = ("dovecot", "popa3d")
DOVECOT = ("dovecot-strongest",)


def variants(name, script, figure, title, targets, **more):
    """In the clear, over TLS with a full handshake, over TLS resumed."""
    for tls, words in (("none", "clear"), ("full", "TLS"), ("resume", "TLS resumed")):
        if tls in targets:
            yield Scenario(f"{name}-{ {'none': 'clear', 'full': 'tls', 'resume': 'resumed'}[tls]}",
                           script, figure, tls=tls, title=f"{title}; {words}",
                           target=targets[tls], **more)


AT_MOST, AT_LEAST = "≤", "≥"

SCENARIOS = [
    *variants("login", LOGIN, "cpu_ms", "log in, STAT, QUIT",
              {"none": (AT_MOST, 0.30), "full": (AT_MOST, 0.45), "resume": (AT_MOST, 0.45)},
              peers=EVERY_MODE),
    *variants("poll", POLL, "cpu_ms", "poll 1,000 messages",
              {"none": (AT_MOST, 0.30), "full": (), "resume": ()}, kind="p", users=8),
    # popa3d sends a reply in two writes without TCP_NODELAY, which is 40 ms a command: it is asked
    # where that does not take minutes.
    *variants("drain", DRAIN, "cpu_ms_per_mb", "drain 200 messages", kind="d", users=2,
              concurrency=1, targets={"none": (AT_MOST, 0.5), "full": (AT_MOST, 0.5)},
              also={"mb_per_s": (AT_LEAST, 2.0)}, peers=DOVECOT),
    *(Scenario(s.name + "-pipelined", s.script, s.figure, s.kind, s.users, s.concurrency, s.tls,
               True, title=s.title + ", pipelined", target=s.target, also=s.also)
      for s in variants("drain", DRAIN, "cpu_ms_per_mb", "drain 200 messages", kind="d", users=2,
                        concurrency=1, targets={"none": (AT_MOST, 0.5), "full": (AT_MOST, 0.5)},
                        also={"mb_per_s": (AT_LEAST, 2.0)})),
    *variants("delete", DELETE, "cpu_ms", "drain and delete 100 messages", kind="x", users=16,
              sessions=16, refill="all", targets={"none": (AT_MOST, 0.6), "full": ()},
              peers=DOVECOT),
    *variants("top", TOP, "cpu_ms", "TOP of 1,000 messages", kind="p", users=8,
              targets={"none": (), "full": ()}, peers=DOVECOT),
    Scenario("quit", "greeting quit", "sessions_per_s", title="connect and QUIT",
             target=(AT_LEAST, 1.5), peers=EVERY_MODE),
    *(Scenario(f"list-{n}-{when}", LISTING, "work_ms", kind, 1, 1, sessions=sessions, refill=refill,
               title=f"{n} messages: login to the end of UIDL and LIST, {words}", target=target,
               peers=DOVECOT)
      for n, kind, target in (("1k", "j", ()), ("10k", "k", (AT_MOST, 0.1)),
                              ("100k", "h", (AT_MOST, 0.1)))
      for when, words, sessions, refill in (("first", "first time", 1, "first"),
                                            ("later", "later", 0, ""))),
    Scenario("memory", "greeting user pass stat hold quit", "pss_kb", users=64, concurrency=64,
             tls="full", sessions=64, title="an idle session over TLS, logged in: PSS",
             target=(AT_MOST, 0.9), also={"page_tables_kb": ()}, peers=("dovecot",)),
    Scenario("lmtp", "banner lhlo deliver bye", "deliveries_per_s", kind="l", users=16,
             refill="all", title="LMTP, 10 kB, a durable commit each", target=(AT_LEAST, 1.5),
             also={"cpu_ms_per_delivery": ()}, peers=("dovecot",)),
    Scenario("lmtp-spread", "banner lhlo deliver bye", "deliveries_per_s", kind="l", users=16,
             refill="all", spread=True, title="the same, each message to another user",
             also={"cpu_ms_per_delivery": ()}, peers=("dovecot",)),
    *(Scenario(f"grow-{n}", LOGIN, "login_p99_ms", users=1000, concurrency=n,
               sessions=max(n * 2, 200), title=f"{n} sessions at once: p99 of a login",
               target=(AT_MOST, 1.0) if n == 1000 else (), also={"cpu_ms": ()},
               peers=("dovecot",) if n == 1000 else DOVECOT) for n in (1, 10, 100, 1000)),
]

# Larger is better.
RATES = {"mb_per_s", "sessions_per_s", "deliveries_per_s"}
UNITS = {"cpu_ms": "ms CPU a session", "cpu_ms_per_mb": "ms CPU a MB", "mb_per_s": "MB/s",
         "sessions_per_s": "sessions/s", "work_ms": "ms", "pss_kb": "kB a session",
         "page_tables_kb": "kB of page tables", "deliveries_per_s": "messages/s",
         "cpu_ms_per_delivery": "ms CPU a message", "login_p99_ms": "ms"}


def load_command(s, server, seconds, sessions=None, digest=False):
    command = [str(poplar.BUILD / "tests/load"), "--prefix", s.kind, "--users", str(s.users),
               "--concurrency", str(s.concurrency), "--tls", s.tls]
    if s.script.startswith("banner"):
        command += ["--unix", server.lmtp]
    else:
        command += ["--port", str(server.port if s.tls == "none" else server.tls_port)]
    sessions = sessions or s.sessions
    command += ["--sessions", str(sessions)] if sessions else ["--seconds", str(seconds)]
    if "retr" in s.script:
        command += ["--octets", str(mail.wire_octets(s.kind))]
    command += ["--pipeline"] * s.pipeline + ["--spread"] * s.spread + ["--digest"] * digest
    return command + [s.script]


def load(s, server, seconds, **more):
    command = load_command(s, server, seconds, **more)
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    try:
        got = json.loads(result.stdout)
    except ValueError:
        raise Failure(f"{result.stdout} {result.stderr}") from None
    if got["errors"]:
        raise Failure(f"{got['errors']} errors, first: {got['error']}")
    return got


def settle(server, limit=3):
    """Until the server has done what it still does after its sessions."""
    deadline = time.monotonic() + limit
    before = server.group.cpu()
    while time.monotonic() < deadline:
        time.sleep(0.1)
        now = server.group.cpu()
        if now - before < 0.0005:
            return
        before = now


def measure(s, server, seconds):
    """One run: figures by name."""
    if s.refill == "all":
        server.fill(s.kind, s.users)
    elif s.refill == "first":
        server.refill_first(s.kind)
    if s.refill == "all":
        os.sync()
    settle(server)
    cpu = server.group.cpu()
    got = load(s, server, seconds)
    settle(server)
    cpu = (server.group.cpu() - cpu) * 1000
    mb = got["octets"] / 1e6
    figures = {"cpu_ms": cpu / got["sessions"],
               "sessions_per_s": got["sessions"] / got["seconds"], "reused": got["reused"],
               "own_cpu_ms": got["own_cpu"] * 1000 / got["sessions"]}
    if mb:
        figures |= {"cpu_ms_per_mb": cpu / mb, "mb_per_s": mb / got["seconds"]}
    if got["deliveries"]:
        figures |= {"deliveries_per_s": got["deliveries"] / got["seconds"],
                    "cpu_ms_per_delivery": cpu / got["deliveries"]}
    for kind in ("login", "work"):
        if f"{kind}_ms" in got:
            figures[f"{kind}_ms"] = got[f"{kind}_ms"]["p50"]
            figures[f"{kind}_p99_ms"] = got[f"{kind}_ms"]["p99"]
    return figures


def measure_memory(s, server, _seconds):
    """What each idle session adds to the tree's proportional set size, after a fresh start: some
    keep the processes of sessions that ended."""
    server.restart()
    settle(server)
    before = server.group.memory()
    command = load_command(s, server, 0)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
        assert p.stdout.readline() == "held\n", p.stdout.read()
        settle(server)
        held = server.group.memory()
        p.stdin.close()
        got = json.loads(p.stdout.read())
    if got["errors"]:
        raise Failure(got["error"])
    return {"pss_kb": (held[0] - before[0]) / s.concurrency,
            "page_tables_kb": (held[1] - before[1]) / s.concurrency}


def verify(s, server):
    """Before anything is timed: does this server serve the mail as it was put in?"""
    got = load(s, server, 0, sessions=1, digest=True)
    if got["digest"] != mail.digest(s.kind):
        raise Failure("other octets than it was given")


def prepare(scenarios, servers):
    """Maildrops for all, each once; and one session of each user, which fills what servers keep."""
    wanted = {}
    for s in scenarios:
        wanted[s.kind] = max(wanted.get(s.kind, 0), s.users)
    for server in servers.values():
        for kind, users in wanted.items():
            if any(may_run(s, server) and s.kind == kind for s in scenarios):
                server.fill(kind, users)


def may_run(s, server):
    if s.tls != "none" and not server.tls_port:
        return False
    return server.name.startswith("poplar") or any(server.name.startswith(p) for p in s.peers)


def warm_up(s, server):
    if s.name.startswith("drain"):
        verify(s, server)
    if not s.refill and s.name != "memory":
        load(s, server, 0, sessions=max(s.users, s.concurrency))


def run_one(s, server, seconds, results):
    measured = (measure_memory if s.name == "memory" else measure)(s, server, seconds)
    if escaped := server.group.escaped():
        raise Failure(f"processes out of its group: {escaped}")
    for figure, value in measured.items():
        results.setdefault(figure, []).append(value)


def run(scenarios, servers, rounds, seconds):
    """Figures by scenario, server and name. A server that fails in a scenario is out of that one."""
    results = {}
    for s in scenarios:
        chosen = [server for server in servers.values() if may_run(s, server)]
        found = results[s.name] = {server.name: {} for server in chosen}
        print(f"{s.name}:", end="", flush=True)
        for n in range(rounds):
            print(" .", end="", flush=True)
            for server in list(chosen):
                try:
                    if n == 0:
                        warm_up(s, server)
                    run_one(s, server, seconds, found[server.name])
                except Failure as failure:
                    print(f" {server.name}: {failure}", end="", flush=True)
                    del found[server.name]
                    chosen.remove(server)
        print()
        for name, figures in found.items():
            runs = figures[s.figure]
            print(f"    {name:28} {show(statistics.median(runs)):>9} {UNITS[s.figure]}"
                  f"  ({show(min(runs))}–{show(max(runs))})", flush=True)
    return results


def show(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def summarise(results, scenarios):
    """Rows: scenario, figure, Poplar's median and spread, the strongest Dovecot's, ratio, target."""
    rows = []
    for s in scenarios:
        for figure, target in {s.figure: s.target, **s.also}.items():
            medians = {name: statistics.median(r[figure]) for name, r in results[s.name].items()}
            if "poplar" not in medians:
                continue
            ours = results[s.name]["poplar"][figure]
            best = max if figure in RATES else min
            dovecots = {n: v for n, v in medians.items() if n.startswith("dovecot")}
            row = {"scenario": s.name, "title": s.title, "figure": figure, "unit": UNITS[figure],
                   "poplar": medians["poplar"], "poplar_spread": [min(ours), max(ours)],
                   "medians": medians, "target": target}
            if dovecots:
                reference = best(dovecots, key=dovecots.get)
                if s.name == "memory":
                    reference = "dovecot-performance-maildir"
                elif s.name == "quit":
                    reference = "dovecot-default-maildir"
                if reference not in dovecots:
                    reference = best(dovecots, key=dovecots.get)
                theirs = results[s.name][reference][figure]
                row |= {"reference": reference, "reference_median": medians[reference],
                        "reference_spread": [min(theirs), max(theirs)],
                        "ratio": medians["poplar"] / medians[reference]}
                if target:
                    sign, bound = target
                    row["met"] = row["ratio"] <= bound if sign == AT_MOST else row["ratio"] >= bound
            rows.append(row)
    return rows


def table(rows):
    lines = ["| scenario | figure | Poplar | strongest Dovecot | ratio | target | others |",
             "|---|---|---|---|---|---|---|"]
    for r in rows:
        spread = f" ({show(r['poplar_spread'][0])}–{show(r['poplar_spread'][1])})"
        reference, ratio, target = "–", "–", "–"
        if "reference" in r:
            low, high = r["reference_spread"]
            reference = (f"{show(r['reference_median'])} ({show(low)}–{show(high)}) "
                         f"{r['reference'].removeprefix('dovecot-')}")
            ratio = f"{r['ratio']:.2f}"
        if r["target"]:
            target = f"{r['target'][0]} {r['target'][1]:g}"
            if "met" in r:
                ratio = f"**{ratio}**" if r["met"] else f"{ratio} (missed)"
        others = ", ".join(f"{n.removeprefix('dovecot-')} {show(v)}" for n, v in r["medians"].items()
                           if n not in ("poplar", r.get("reference")))
        lines.append(f"| {r['title']} | {r['unit']} | {show(r['poplar'])}{spread} | {reference} | "
                     f"{ratio} | {target} | {others} |")
    return "\n".join(lines)


def heading(about):
    servers = ", ".join(dict.fromkeys(about["servers"].values()))
    return (f"{about['date']}, {about['cpu']}, {about['cores']} cores, Linux {about['kernel']}; "
            f"{servers}; {about['rounds']} rounds; CPU by {about['cpu_measured_by']}")


def machine():
    model = next((line.partition(":")[2].strip() for line in
                  Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
                 platform.machine())
    return {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release(),
            "load_before": os.getloadavg()[0]}


def make_servers(world, wanted):
    makers = {"poplar": lambda n: peers.PoplarServer(n, world)}
    if peers.has_tree("dovecot"):
        for mode, stores in (("default", ("maildir",)), ("performance", ("maildir",)),
                             ("strongest", ("maildir", "sdbox"))):
            for store in stores:
                makers[f"dovecot-{mode}-{store}"] = (
                    lambda n, mode=mode, store=store: peers.Dovecot(n, world, mode, store))
    if peers.has_tree("popa3d"):
        makers["popa3d"] = lambda n: peers.Popa3d(n, world)
    return {n: make(n) for n, make in makers.items()
            if n == "poplar" or not wanted or any(n.startswith(w) for w in wanted)}


def main():
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--scenario", default="", help="names or their beginnings, with commas")
    parser.add_argument("--servers", default="", help="the same, of peers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a run without a fixed number")
    parser.add_argument("--results", default="", help="a directory for the JSON")
    parser.add_argument("--kept", default="/var/tmp/poplar-bench", help="for the mail, made once")
    parser.add_argument("--during", default="", help="a shell command, run while all servers are up")
    parser.add_argument("--reprint", nargs="+", metavar="FILE",
                        help="print the table of JSON files, later rows in place of earlier; run nothing")
    arguments = parser.parse_args()
    if arguments.reprint:
        rows = {}
        for file in arguments.reprint:
            kept = json.loads(Path(file).read_text())
            print(heading(kept["about"]))
            rows |= {(r["scenario"], r["figure"]): r for r in kept["rows"]}
        order = [s.name for s in SCENARIOS]
        print(f"\n{table(sorted(rows.values(), key=lambda r: order.index(r['scenario'])))}")
        return

    prefixes = [p for p in arguments.scenario.split(",") if p]
    scenarios = [s for s in SCENARIOS
                 if not prefixes or any(s.name.startswith(p) for p in prefixes)]
    if not scenarios:
        raise SystemExit("no such scenario; there are " + " ".join(s.name for s in SCENARIOS))
    conftest.raise_loopback()
    if arguments.results:  # not only found to be missing after a quarter of an hour
        Path(arguments.results).mkdir(parents=True, exist_ok=True)
    conftest.private_etc()
    conftest.reachable_programs()
    measured_by = "cgroup2 cpu.stat" if peers.Group.find() else "/proc/PID/stat, with reaped children"
    about = {"date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
             if hasattr(datetime, "UTC") else
             datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
             **machine(), "rounds": arguments.rounds, "seconds": arguments.seconds,
             "cpu_measured_by": measured_by, "commit": os.environ.get("BENCH_COMMIT", "")}

    directory = Path(os.environ["POPLAR_SCRATCH"])
    with contextlib.ExitStack() as stack:
        certificate, key = poplar.make_certificate(directory, "pop.example.test", "localhost")
        world = peers.World(directory, arguments.kept, certificate, key)
        servers = make_servers(world, [w for w in arguments.servers.split(",") if w])
        about["servers"] = {n: server.description for n, server in servers.items()}
        for server in servers.values():
            server.start()
            stack.callback(server.stop)
        prepare(scenarios, servers)
        os.sync()
        if arguments.during:
            subprocess.run(arguments.during, shell=True, check=False)
        results = run(scenarios, servers, arguments.rounds, arguments.seconds)
    if peers.Group.base:
        with contextlib.suppress(OSError):
            peers.Group.base.rmdir()

    rows = summarise(results, scenarios)
    print(f"\n{heading(about)}\n\n{table(rows)}")
    if arguments.results:
        stamp = about["date"].translate(str.maketrans(": ", "--", "UTC")).rstrip("-")
        to = Path(arguments.results) / f"{stamp}.json"
        to.write_text(json.dumps({"about": about, "rows": rows, "runs": results}, indent=1) + "\n")
        print(f"\n{to}")


if __name__ == "__main__":
    main()

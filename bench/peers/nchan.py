"""nchan, the publish-subscribe module of nginx, with its WebSocket subscribers.

Source: https://nchan.io/, "Configuration". One nginx worker: more of them cost it CPU for talking to each other.
Publishers send an HTTP request for each message.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench import wire
from bench.peers.base import Greeting, Launch, Peer, find
from bench.processes import free_ports
from bench.workloads import Group, Workload

#: More requests than that a second would measure nginx's HTTP and not its fan-out.
MOST_TICKS_PER_S = 5000
#: nchan's own limit for one subscriber of several channels.
MOST_CHANNELS = 255
_MODULES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/local/nginx/modules")

_CONFIGURATION = """\
load_module {module};
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 19000; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  nchan_shared_memory_size 512M;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /pub {{
      nchan_publisher http;
      nchan_channel_id $arg_id;
    }}
    location = /sub {{
      nchan_subscriber websocket;
      nchan_channel_id $arg_ids;
      nchan_channel_id_split_delimiter ",";
      nchan_subscriber_first_message newest;
    }}
  }}
}}
"""


class Nchan(Peer):
    """A channel for each symbol."""

    name = "nchan"
    title = "nchan in nginx, WebSocket"
    pings = False

    def _module(self) -> Path | None:
        paths = (Path(folder) / "ngx_nchan_module.so" for folder in _MODULES)
        return next((path for path in paths if path.exists()), None)

    def missing(self) -> str | None:
        if find("nginx") is None or self._module() is None:
            return "nginx with nchan is not installed (Debian: apt install nginx-light libnginx-mod-nchan)"
        return None

    def unfit(self, workload: Workload) -> str | None:
        if workload.ticks_per_second > MOST_TICKS_PER_S:
            return f"its publishers send a request for each tick; above {MOST_TICKS_PER_S}/s that is what is measured"
        if any(not group.symbols_each or group.symbols_each > MOST_CHANNELS for group in workload.groups):
            return f"a subscriber of it has at most {MOST_CHANNELS} channels"
        return None

    def version(self) -> str:
        done = subprocess.run([find("nginx") or "", "-v"], capture_output=True, text=True, check=False)
        return f"nchan in {done.stderr.strip().removeprefix('nginx version: ')}"

    def launch(self, folder: Path, workload: Workload) -> Launch:
        (port,) = free_ports(1)
        path = folder / "nginx.conf"
        path.write_text(_CONFIGURATION.format(module=self._module(), folder=folder, port=port))
        argv = [find("nginx") or "", "-e", "stderr", "-p", str(folder), "-c", str(path)]
        return Launch(argv=argv, port=port, publish_port=port)

    def greeting(self, host: str, group: Group, symbols: Sequence[str]) -> Greeting:
        return Greeting(request=wire.upgrade(host, f"/sub?ids={','.join(symbols)}"))

    def publish(self, ticks: Iterable[tuple[str, bytes]]) -> bytes:
        return b"".join(
            b"POST /pub?id=%b HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n%b"
            % (sym.encode(), len(raw), raw)
            for sym, raw in ticks
        )

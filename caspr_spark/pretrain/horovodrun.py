"""horovodrun for the workers of one host: its rendezvous server, which asks nobody who they are, is on loopback alone.

python -m caspr_spark.pretrain.horovodrun --gloo -np 2 --network-interface lo python -m ...
"""

from http.server import HTTPServer

from horovod.runner import launch
from horovod.runner.http import http_server

LOOPBACK = "127.0.0.1"


def bind_to_loopback(server: HTTPServer) -> None:
    """Horovod's server would listen on every interface, and has no setting for it."""
    server.server_address = (LOOPBACK, server.server_address[1])
    HTTPServer.server_bind(server)


if __name__ == "__main__":
    http_server.RendezvousHTTPServer.server_bind = bind_to_loopback
    launch.run_commandline()

"""Put on PYTHONPATH by the notebook tests: only this machine's loopback can be reached."""

import socket

_connect = socket.socket.connect


def _loopback_only(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"the network is blocked in this test; something tried to reach {address[0]}")
    return _connect(self, address)


socket.socket.connect = _loopback_only

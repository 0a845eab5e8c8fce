"""A function of Fn without a development kit: HTTP on the socket that FN_LISTENER names.

A call with JSON like {"name":"Ada"} is greeted. What is no JSON makes the function
fail: its caller gets 502, the reason stands in the log, and the container goes on.
"""
import http.server
import json
import os
import socketserver
import sys

calls = 0


def handle(body, header):
    """What this function does; calls counts what the container has served."""
    name = json.loads(body or "{}").get("name", "world")
    return {"hello": name, "call": calls, "app": os.environ["FN_APP_NAME"], "id": header["Fn-Call-Id"]}


class Call(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        global calls
        calls += 1
        body = self.read()
        try:
            status, answer = 200, handle(body, self.headers)
        except Exception as e:
            print("failed:", e, file=sys.stderr, flush=True)
            status, answer = 502, {"message": "Exception in function, consult logs for details"}
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def read(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def address_string(self):
        return "caller"  # a Unix socket has no addresses

    def log_request(self, *args):
        pass


class Server(socketserver.UnixStreamServer):
    def server_bind(self):
        """The socket appears under its name only when it can be used."""
        name = self.server_address
        self.server_address = os.path.join(os.path.dirname(name), "early.sock")
        super().server_bind()
        os.chmod(self.server_address, 0o666)
        self.socket.listen()
        os.symlink("early.sock", name)


scheme, _, path = os.environ.get("FN_LISTENER", "").partition(":")
if scheme != "unix":
    sys.exit("func.py: FN_LISTENER does not name a Unix socket")
Server(path, Call).serve_forever()

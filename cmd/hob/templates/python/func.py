"""A function: it serves many calls from one container, one at a time, as HTTP on
the Unix socket that FN_LISTENER names."""
import http.server
import json
import os
import socketserver
import sys


def handle(payload):
    """The function: change it."""
    name = "World"
    try:
        name = json.loads(payload).get("name", name)
    except ValueError as err:
        if payload:
            print("the payload is no JSON:", err, file=sys.stderr)  # goes to the log of the function
    return {"message": "Hello " + name}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        answer = json.dumps(handle(self.payload()), separators=(",", ":")).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def payload(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        whole = b""
        while True:
            size = int(self.rfile.readline().split(b";")[0], 16)
            whole += self.rfile.read(size)
            self.rfile.readline()
            if size == 0:
                return whole

    def address_string(self):
        return "caller"

    def log_message(self, *args):
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def main():
    listener = os.environ.get("FN_LISTENER", "")
    if not listener.startswith("unix:"):
        sys.exit("FN_LISTENER does not name a Unix socket")
    socket = listener[len("unix:"):]
    early = os.path.join(os.path.dirname(socket), "early.sock")
    server = Server(early, Handler)
    # The socket appears under its name only when it can be used.
    os.chmod(early, 0o666)
    os.rename(early, socket)
    server.serve_forever()


if __name__ == "__main__":
    main()

// Command stream serves many calls from one container over a Unix socket, as the
// development kits of Fn do it: POST /call on the socket that FN_LISTENER names.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	path, ok := strings.CutPrefix(os.Getenv("FN_LISTENER"), "unix:")
	if !ok {
		log.Fatalln("stream: FN_LISTENER does not name a Unix socket")
	}
	// The socket appears under its name only when it can be used.
	early := filepath.Join(filepath.Dir(path), "early.sock")
	l, err := net.Listen("unix", early)
	if err != nil {
		log.Fatalln("stream:", err)
	}
	if err := os.Chmod(early, 0o666); err != nil {
		log.Fatalln("stream:", err)
	}
	if err := os.Rename(early, path); err != nil {
		log.Fatalln("stream:", err)
	}
	log.Fatalln("stream:", http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%d bytes in call %s, to end by %s\n", len(body), r.Header.Get("Fn-Call-Id"), r.Header.Get("Fn-Deadline"))
	})))
}

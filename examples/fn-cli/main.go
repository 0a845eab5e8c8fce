// Command fn-cli makes a function of Fn of a program that reads standard input and
// writes standard output: fn-cli PROGRAM ARGUMENT…
//
// The program is run for each call, in one container: the body of the call is its
// input, its output is the answer. If it fails, so does the function; what it wrote to
// standard error is in the log.
package main

import (
	"bytes"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("fn-cli: ")
	path, ok := strings.CutPrefix(os.Getenv("FN_LISTENER"), "unix:")
	switch {
	case !ok:
		log.Fatal("FN_LISTENER does not name a Unix socket")
	case len(os.Args) < 2:
		log.Fatal("usage: fn-cli PROGRAM ARGUMENT…")
	}
	// The socket appears under its name only when it can be used.
	early := filepath.Join(filepath.Dir(path), "early.sock")
	l, err := net.Listen("unix", early)
	if err != nil {
		log.Fatal(err)
	}
	if err := os.Chmod(early, 0o666); err != nil {
		log.Fatal(err)
	}
	if err := os.Rename(early, path); err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(l, http.HandlerFunc(call)))
}

func call(w http.ResponseWriter, r *http.Request) {
	cmd := exec.CommandContext(r.Context(), os.Args[1], os.Args[2:]...)
	var out bytes.Buffer // kept until it is known how the program ends
	cmd.Stdin, cmd.Stdout, cmd.Stderr = r.Body, &out, os.Stderr
	if err := cmd.Run(); err != nil {
		log.Printf("%s: %v", os.Args[1], err)
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	w.Write(out.Bytes())
}

// Fngate is a function of Fn that tells a gatekeeper outside of each call, and does
// what it says; without one it says how long the body of the call is. It shares the
// network of the node to find the gatekeeper.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

func main() {
	path := strings.TrimPrefix(os.Getenv("FN_LISTENER"), "unix:")
	early := filepath.Join(filepath.Dir(path), "early.sock")
	l, err := net.Listen("unix", early)
	if err == nil {
		err = os.Chmod(early, 0o666)
	}
	if err == nil {
		err = os.Rename(early, path)
	}
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(l, http.HandlerFunc(serve)))
}

func serve(w http.ResponseWriter, r *http.Request) {
	gate := os.Getenv("GATE")
	if gate == "" {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			log.Print(err)
		}
		fmt.Fprint(w, n)
		return
	}
	payload, err := io.ReadAll(r.Body)
	if err != nil {
		log.Fatal(err)
	}
	conn, err := net.Dial("tcp", gate)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	err = json.NewEncoder(conn).Encode(map[string]string{
		"call": r.Header.Get("Fn-Call-Id"), "attempt": r.Header.Get("Hob-Attempt"), "function": os.Getenv("FN_FN_NAME"), "payload": string(payload),
	})
	if err != nil {
		log.Fatal(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		log.Fatal(err)
	}
	verb, arg, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	n, _ := strconv.Atoi(arg)
	switch verb {
	case "say":
		fmt.Fprint(w, arg)
	case "log":
		fmt.Fprintln(os.Stderr, arg)
	case "status":
		w.WriteHeader(n)
	case "exit":
		os.Exit(n)
	}
}

// Fnfn is a function of Fn that speaks the contract of the socket by hand, and does
// what the body of its call says: see verbs. What it does instead of listening
// stands in MODE.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	path, ok := strings.CutPrefix(os.Getenv("FN_LISTENER"), "unix:")
	if !ok {
		log.Fatalf("FN_LISTENER is %q", os.Getenv("FN_LISTENER"))
	}
	switch os.Getenv("MODE") {
	case "exit":
		fmt.Fprintln(os.Stderr, "I cannot go on")
		os.Exit(7)
	case "deaf":
		time.Sleep(time.Hour)
	case "file":
		os.WriteFile(path, nil, 0o666)
		time.Sleep(time.Hour)
	case "out": // a link that leads out of the directory
		os.Symlink("/tmp/elsewhere.sock", path)
		time.Sleep(time.Hour)
	}
	// As development kits do it: another name first, so that the right one is there
	// only when the socket can be used.
	phony := filepath.Join(filepath.Dir(path), "phony.sock")
	l, err := net.Listen("unix", phony)
	if err != nil {
		log.Fatal(err)
	}
	if err := os.Chmod(phony, 0o666); err != nil {
		log.Fatal(err)
	}
	if err := os.Symlink("phony.sock", path); err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(l, http.HandlerFunc(serve)))
}

var calls atomic.Int32

func serve(w http.ResponseWriter, r *http.Request) {
	n := calls.Add(1)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		log.Print(err)
		return
	}
	verb, arg, _ := strings.Cut(string(body), " ")
	number, _ := strconv.Atoi(arg)
	switch verb {
	case "count":
		fmt.Fprint(w, n)
	case "headers":
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{"method": r.Method, "path": r.URL.Path, "header": r.Header})
	case "env":
		env := os.Environ()
		sort.Strings(env)
		fmt.Fprint(w, strings.Join(env, "\n"))
	case "status": // of the contract
		w.WriteHeader(number)
		fmt.Fprint(w, `{"message":"Exception in function, consult logs for details","detail":"secret"}`)
	case "http": // for the caller of a trigger: STATUS NAME VALUE
		status, rest, _ := strings.Cut(arg, " ")
		name, value, _ := strings.Cut(rest, " ")
		w.Header().Set("Fn-Http-Status", status)
		w.Header().Set("Fn-Http-H-"+name, value)
		w.Header().Set("X-Own", "not for callers of triggers")
		w.Header().Set("Content-Type", "text/x-own")
		fmt.Fprint(w, "own body")
	case "body":
		w.Write(bytes.Repeat([]byte("x"), number))
	case "header":
		w.Header().Set("X-Long", strings.Repeat("x", number))
	case "sleep":
		time.Sleep(time.Duration(number) * time.Millisecond)
		fmt.Fprint(w, "slept")
	case "close":
		c, _, _ := http.NewResponseController(w).Hijack()
		c.Close()
	case "exit":
		fmt.Fprintln(os.Stderr, "last words")
		os.Exit(number)
	case "hoard":
		var all [][]byte
		for range number {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = byte(i)
			}
			all = append(all, b)
		}
		fmt.Fprint(w, len(all))
	case "say":
		fmt.Fprintln(os.Stderr, arg)
	case "read":
		text, err := os.ReadFile(arg)
		fmt.Fprint(w, string(text), orEmpty(err))
	case "write":
		fmt.Fprint(w, orEmpty(os.WriteFile(arg, []byte("x"), 0o644)))
	case "id":
		host, _ := os.Hostname()
		fmt.Fprintf(w, "%d:%d %s", syscall.Getuid(), syscall.Getgid(), host)
	case "invoke": // URL: another function
		resp, err := http.Post(arg, "text/plain", strings.NewReader("count"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		answer, _ := io.ReadAll(resp.Body)
		fmt.Fprintf(w, "it says %d %s", resp.StatusCode, answer)
	default:
		w.Write(body)
	}
}

func orEmpty(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

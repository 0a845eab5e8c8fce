// Command contract is a function of format http-stream that shows what it finds
// around it and does what the body of a request says, for tests. MODE says how it
// begins. Where there is a Runtime API it is one of format lambda, which answers
// with where it is and what it was asked.
package main

import (
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
	"time"
)

func main() {
	if api := os.Getenv("AWS_LAMBDA_RUNTIME_API"); api != "" {
		log.Fatal(run("http://" + api + "/2018-06-01/runtime/invocation/"))
	}
	mode := os.Getenv("MODE")
	switch mode {
	case "silent":
		time.Sleep(time.Hour)
	case "exit":
		log.Fatal("no such picture")
	}
	name, ok := strings.CutPrefix(os.Getenv("FN_LISTENER"), "unix:")
	if !ok {
		log.Fatal("FN_LISTENER does not begin with unix:")
	}
	if err := serve(mode, name, filepath.Dir(name)); err != nil {
		log.Fatal(err)
	}
}

// run asks for calls until it is refused.
func run(api string) error {
	for {
		next, err := http.Get(api + "next")
		if err != nil {
			return err
		}
		event, _ := io.ReadAll(next.Body)
		next.Body.Close()
		dir, _ := os.Getwd()
		readOnly, writable := os.WriteFile("file", nil, 0o600), os.WriteFile("/tmp/file", nil, 0o600)
		fmt.Printf("asked %s\n", event)
		fmt.Fprintln(os.Stderr, "asked, too")
		answer := fmt.Sprintf("%s of %s in %s: %v, %v", event, os.Getenv("_HANDLER"), dir, readOnly, writable)
		done, err := http.Post(api+next.Header.Get("Lambda-Runtime-Aws-Request-Id")+"/response", "text/plain", strings.NewReader(answer))
		if err != nil {
			return err
		}
		done.Body.Close()
	}
}

// serve listens under another name and then gives the socket its own, as mode says.
func serve(mode, name, dir string) error {
	early := filepath.Join(dir, "early.sock")
	if mode == "longest" { // that an address of a Unix socket can have
		early = filepath.Join(dir, strings.Repeat("x", 107-len(dir)-1))
	}
	if mode == "elsewhere" {
		early = "/tmp/early.sock"
	}
	l, err := net.Listen("unix", early)
	if err != nil {
		return err
	}
	rights := os.FileMode(0o666)
	if mode == "private" {
		rights = 0o600
	}
	if err := os.Chmod(early, rights); err != nil {
		return err
	}
	switch mode {
	case "absolute":
		err = os.Symlink(early, name)
	case "elsewhere":
		err = os.Symlink("../early.sock", name)
	case "file":
		err = os.WriteFile(name, nil, 0o666)
	case "renamed":
		err = os.Rename(early, name)
	default:
		err = os.Symlink(filepath.Base(early), name)
	}
	if err != nil {
		return err
	}
	return http.Serve(l, http.HandlerFunc(answer))
}

func answer(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	what, arg, _ := strings.Cut(string(body), " ")
	n, _ := strconv.Atoi(arg)
	switch what {
	case "status":
		w.WriteHeader(n)
		fmt.Fprint(w, `{"message":"no picture"}`)
	case "header":
		w.Header().Set("X-Large", strings.Repeat("x", n))
	case "hang":
		time.Sleep(time.Hour)
	case "close":
		c, _, _ := http.NewResponseController(w).Hijack()
		c.Close()
	case "exit":
		os.Exit(n)
	case "hog":
		var held [][]byte
		for {
			block := make([]byte, 1<<20)
			for i := range block {
				block[i] = 1
			}
			held = append(held, block)
		}
	default:
		json.NewEncoder(w).Encode(report(r))
	}
}

// report is what the function finds.
func report(r *http.Request) map[string]any {
	host, _ := os.Hostname()
	groups, _ := os.Getgroups()
	read := func(file string) string { b, _ := os.ReadFile(file); return string(b) }
	writes := make(map[string]string)
	for _, dir := range []string{"/", "/tmp", "/tmp/iofs", "/srv", "/dev/shm"} {
		writes[dir] = fmt.Sprint(os.WriteFile(filepath.Join(dir, "x"), nil, 0o600))
	}
	return map[string]any{
		"method": r.Method, "url": r.RequestURI, "host": r.Host, "header": r.Header,
		"env": os.Environ(), "hostname": host,
		"user": []int{os.Getuid(), os.Getgid()}, "groups": groups, "pid": os.Getpid(),
		"status": read("/proc/self/status"), "limits": read("/proc/self/limits"), "mounts": read("/proc/self/mounts"), "writes": writes,
	}
}

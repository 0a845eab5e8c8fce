// Command isolated is a function of any of the formats default, http and http-stream,
// for tests. It does what the body of a call says, and writes a line about it.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	switch os.Getenv("HOB_FORMAT") {
	case "http-stream":
		path := strings.TrimPrefix(os.Getenv("FN_LISTENER"), "unix:")
		l, err := net.Listen("unix", path+".next")
		if err == nil {
			err = os.Chmod(path+".next", 0o666)
		}
		if err == nil {
			err = os.Rename(path+".next", path)
		}
		if err == nil {
			err = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				io.WriteString(w, do(string(body)))
			}))
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	case "http":
		for in := bufio.NewReader(os.Stdin); ; {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			body, _ := io.ReadAll(r.Body)
			answer := do(string(body))
			fmt.Printf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(answer), answer)
		}
	default:
		body, _ := io.ReadAll(os.Stdin)
		fmt.Print(do(string(body)))
	}
}

// do carries out "hang", "ask ADDRESS…" or else echoes.
func do(body string) string {
	fmt.Fprintln(os.Stderr, "told to", body)
	verb, args, _ := strings.Cut(body, " ")
	switch verb {
	case "hang":
		time.Sleep(time.Hour)
	case "ask": // who answers
		var who []string
		for addr := range strings.FieldsSeq(args) {
			c, err := net.DialTimeout("tcp", addr, 3*time.Second)
			if err != nil {
				continue
			}
			c.SetDeadline(time.Now().Add(10 * time.Second))
			if word, _ := io.ReadAll(c); len(word) > 0 {
				who = append(who, addr+" "+string(word))
			}
			c.Close()
		}
		return strings.Join(who, ", ")
	}
	return body
}

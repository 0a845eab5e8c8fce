// Command hot is a function of format http that does what the body of a request
// says, for tests: well or badly.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "child" { // holds the streams of its parent
		time.Sleep(time.Hour)
	}
	if os.Getenv("DEAF") != "" {
		signal.Ignore(syscall.SIGTERM)
	}
	if noise := os.Getenv("NOISE"); noise != "" {
		fmt.Println(noise)
	}
	in, out := bufio.NewReader(os.Stdin), bufio.NewWriter(os.Stdout)
	var hoard [][]byte
	for n := 1; ; n++ {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if req.Header.Get("Early") != "" { // answers before it has read the request
			answer(out, "early")
			if req.Header.Get("Early") == "never" {
				time.Sleep(time.Hour)
			}
			io.Copy(io.Discard, req.Body)
			continue
		}
		if req.Header.Get("Echo") != "" {
			io.WriteString(out, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			buf := make([]byte, 64<<10)
			for {
				k, err := req.Body.Read(buf)
				if k > 0 {
					fmt.Fprintf(out, "%x\r\n", k)
					out.Write(buf[:k])
					io.WriteString(out, "\r\n")
				}
				if err != nil {
					break
				}
			}
			io.WriteString(out, "0\r\n\r\n")
			out.Flush()
			continue
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		verb, arg, _ := strings.Cut(string(body), " ")
		number, _ := strconv.Atoi(arg)
		switch verb {
		case "exit":
			fmt.Fprintln(os.Stderr, "these are its last words")
			os.Exit(number)
		case "crash":
			panic("it panics")
		case "garbage":
			io.WriteString(out, "this is not HTTP\n")
			out.Flush()
		case "header":
			fmt.Fprintf(out, "HTTP/1.1 200 OK\r\nBig: %s\r\nContent-Length: 0\r\n\r\n", strings.Repeat("x", number))
			out.Flush()
		case "body":
			fmt.Fprintf(out, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", number)
			io.CopyN(out, zeros{}, int64(number))
			out.Flush()
		case "two":
			io.WriteString(out, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none")
			answer(out, "two")
		case "longer":
			io.WriteString(out, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none and more")
			out.Flush()
		case "shorter":
			io.WriteString(out, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort")
			out.Flush()
			os.Exit(0)
		case "unframed":
			io.WriteString(out, "HTTP/1.1 200 OK\r\n\r\nwhere does it end")
			out.Flush()
		case "between":
			answer(out, "fine")
			io.WriteString(os.Stdout, "something between two answers\n")
		case "hang":
			time.Sleep(time.Hour)
		case "sleep":
			time.Sleep(time.Duration(number) * time.Millisecond)
			answer(out, "slept")
		case "hoard":
			more := make([]byte, number<<20)
			for i := range more {
				more[i] = 1
			}
			hoard = append(hoard, more)
			answer(out, fmt.Sprint(len(hoard)))
		case "leak":
			for range number {
				os.Open("/proc/self/stat")
			}
			answer(out, "leaked")
		case "fork":
			child := exec.Command("/proc/self/exe", "child")
			child.Stdout, child.Stderr = os.Stdout, os.Stderr
			if err := child.Start(); err != nil {
				answer(out, err.Error())
				continue
			}
			fmt.Fprintln(os.Stderr, "it leaves a child")
			os.Exit(4)
		case "drip": // an answer in pieces
			io.WriteString(out, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
			for i := range number {
				fmt.Fprintf(out, "8\r\ndata: %d\n\r\n", i%10)
				out.Flush()
				time.Sleep(50 * time.Millisecond)
			}
			io.WriteString(out, "0\r\n\r\n")
			out.Flush()
		case "version":
			answer(out, os.Getenv("VERSION"))
		default:
			answer(out, strconv.Itoa(n))
		}
	}
}

func answer(out *bufio.Writer, body string) {
	fmt.Fprintf(out, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	out.Flush()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

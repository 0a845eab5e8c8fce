// Command hot serves many calls from one container: it reads HTTP requests from
// standard input and writes an HTTP response to each on standard output.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
)

func main() {
	in := bufio.NewReader(os.Stdin)
	for n := 1; ; n++ {
		req, err := http.ReadRequest(in)
		if err == io.EOF {
			return // no more calls
		}
		if err != nil {
			log.Fatalln("hot:", err)
		}
		body, err := io.ReadAll(req.Body) // as far as its Content-Length says
		if err != nil {
			log.Fatalln("hot:", err)
		}
		answer := fmt.Sprintf("Hello %s, call %d of this container.\n", body, n)
		res := http.Response{
			StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Request: req,
			Header:        http.Header{"Content-Type": {"text/plain; charset=utf-8"}},
			ContentLength: int64(len(answer)), // says where the answer ends
			Body:          io.NopCloser(bytes.NewBufferString(answer)),
		}
		if err := res.Write(os.Stdout); err != nil {
			log.Fatalln("hot:", err)
		}
	}
}

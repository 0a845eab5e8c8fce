// Command count says how many calls its container has served, over standard input
// and output.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	in := bufio.NewReader(os.Stdin)
	for n := 1; ; n++ {
		req, err := http.ReadRequest(in)
		if err != nil {
			return // the container is not needed any more
		}
		_, _ = io.Copy(io.Discard, req.Body)
		answer := fmt.Sprintf("call %d\n", n)
		fmt.Printf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(answer), answer)
	}
}

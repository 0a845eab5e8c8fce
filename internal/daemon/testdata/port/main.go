// Command port is a function of format port, for tests: an HTTP server on PORT.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

func main() {
	var mu sync.Mutex
	inside, most := 0, 0
	enter := func(by int) (now int) {
		mu.Lock()
		defer mu.Unlock()
		inside += by
		most = max(most, inside)
		return most
	}
	http.HandleFunc("/together/{count}", func(w http.ResponseWriter, r *http.Request) { // waits for the others
		count, _ := strconv.Atoi(r.PathValue("count"))
		defer enter(-1)
		for now := enter(1); now < count; now = enter(0) {
			select {
			case <-time.After(time.Millisecond):
			case <-r.Context().Done():
				return
			}
		}
	})
	http.HandleFunc("/sleep/{ms}", func(w http.ResponseWriter, r *http.Request) {
		enter(1)
		defer enter(-1)
		ms, _ := strconv.Atoi(r.PathValue("ms"))
		select {
		case <-time.After(time.Duration(ms) * time.Millisecond):
		case <-r.Context().Done():
			fmt.Fprintln(os.Stderr, "the caller has left")
			return
		}
		fmt.Fprint(w, os.Getpid())
	})
	http.HandleFunc("/most", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, enter(0)) })
	http.HandleFunc("/status/{status}", func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(r.PathValue("status"))
		w.Header().Set("X-Own", "yes")
		w.WriteHeader(status)
		fmt.Fprint(w, r.Method, " ", r.URL.RequestURI())
	})
	http.HandleFunc("/upgrade", func(w http.ResponseWriter, r *http.Request) { // echoes bytes, as a WebSocket would
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+r.Header.Get("Upgrade")+"\r\n\r\n")
		io.Copy(conn, buffered)
	})
	l, err := net.Listen("tcp", ":"+os.Getenv("PORT"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	http.Serve(l, nil)
}

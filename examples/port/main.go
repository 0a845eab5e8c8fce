// Command port is an ordinary HTTP server: it listens on PORT and knows nothing of
// functions.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"time"
)

func main() {
	http.HandleFunc("/hello/{name}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "Hello %s!\n", r.PathValue("name"))
	})
	http.HandleFunc("/count", func(w http.ResponseWriter, r *http.Request) { // server-sent events
		w.Header().Set("Content-Type", "text/event-stream")
		for n := range 5 {
			fmt.Fprintf(w, "data: %d\n\n", n+1)
			http.NewResponseController(w).Flush()
			select {
			case <-time.After(200 * time.Millisecond):
			case <-r.Context().Done():
				return
			}
		}
	})
	log.Fatalln("port:", http.ListenAndServe(":"+os.Getenv("PORT"), nil))
}

// Command hello greets, over a Unix socket as the functions of Fn do.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	path, ok := strings.CutPrefix(os.Getenv("FN_LISTENER"), "unix:")
	if !ok {
		log.Fatalln("hello: FN_LISTENER does not name a Unix socket")
	}
	early := filepath.Join(filepath.Dir(path), "early.sock")
	l, err := net.Listen("unix", early)
	if err != nil {
		log.Fatalln("hello:", err)
	}
	if err := os.Chmod(early, 0o666); err != nil {
		log.Fatalln("hello:", err)
	}
	if err := os.Rename(early, path); err != nil {
		log.Fatalln("hello:", err)
	}
	log.Fatalln("hello:", http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s, %s!\n", os.Getenv("GREETING"), strings.TrimSpace(string(name)))
	})))
}

// Gate is the function of the tests of the queue. What it does is said by its name
// and its arguments or, if its name is gate, by a gatekeeper outside, whom it tells
// that it has begun: it shares the network of the node then.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if os.Getenv("DEAF") != "" {
		signal.Ignore(syscall.SIGTERM)
	}
	payload, err := io.ReadAll(os.Stdin)
	if err != nil {
		fail(err)
	}
	do := strings.Join(append([]string{path.Base(os.Args[0])}, os.Args[1:]...), " ")
	if do == "gate" {
		do = ask(payload)
	}
	verb, arg, _ := strings.Cut(do, " ")
	number, text, _ := strings.Cut(arg, " ")
	n, _ := strconv.Atoi(number)
	switch verb {
	case "say":
		fmt.Print(arg)
	case "echo":
		fmt.Println(arg)
	case "cat":
		os.Stdout.Write(payload)
	case "env":
		fmt.Print(os.Getenv(arg))
	case "exit":
		fmt.Fprint(os.Stderr, text)
		os.Exit(n)
	case "big": // so many bytes of answer
		block := strings.Repeat("x", 64<<10)
		for ; n > 0; n -= len(block) {
			fmt.Print(block[:min(n, len(block))])
		}
	case "log": // so many lines
		w := bufio.NewWriter(os.Stderr)
		for i := range n {
			fmt.Fprintf(w, "line %d %s\n", i, strings.Repeat("-", 400))
		}
		w.Flush()
	case "flood": // with a text, for ever
		for block := []byte(strings.Repeat(arg, 1<<20/len(arg))); ; {
			os.Stderr.Write(block)
		}
	case "hang":
		time.Sleep(time.Hour)
	default:
		fail("what is " + do + "?")
	}
}

// ask tells the gatekeeper that a run has begun, and returns what it is to do.
func ask(payload []byte) string {
	conn, err := net.Dial("tcp", os.Getenv("GATE"))
	if err != nil {
		fail(err)
	}
	err = json.NewEncoder(conn).Encode(map[string]string{
		"call": os.Getenv("HOB_CALL_ID"), "attempt": os.Getenv("HOB_ATTEMPT"), "function": os.Getenv("HOB_FUNCTION"),
		"payload": string(payload), "state": os.Getenv("HTTP_HOB_STATE"), "of": os.Getenv("HTTP_HOB_CALL"),
	})
	if err != nil {
		fail(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		fail(err)
	}
	return strings.TrimSuffix(line, "\n")
}

func fail(why any) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(1)
}

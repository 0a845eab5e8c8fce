// Package program is what runs inside the sandboxes of sandboxtest: one program
// whose first argument says what to do. A driver that executes real programs runs
// it as a program of its own (package prog beside it); one that runs functions of
// the test process calls Main.
package program

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Proc is the program's view of its process.
type Proc struct {
	Args   []string // the program and what to do
	Env    []string
	Stdin  io.ReadCloser
	Stdout io.WriteCloser
	Stderr io.Writer
	Term   <-chan struct{} // closed by SIGTERM, if the driver can tell
}

// Main does what p.Args[1] says and returns the exit status.
func Main(p Proc) int {
	arg := func(i int) string {
		if i < len(p.Args) {
			return p.Args[i]
		}
		return ""
	}
	number := func(i int) int {
		n, err := strconv.Atoi(arg(i))
		if err != nil {
			fmt.Fprintf(p.Stderr, "argument %d: %v\n", i, err)
		}
		return n
	}
	switch arg(1) {
	case "echo": // standard input to standard output
		if _, err := io.Copy(p.Stdout, p.Stdin); err != nil {
			return 1
		}
	case "count": // the bytes of standard input, and say nothing before its end
		n, err := io.Copy(io.Discard, p.Stdin)
		if err != nil {
			return 1
		}
		fmt.Fprint(p.Stdout, n)
	case "exit": // with a status
		return number(2)
	case "args":
		fmt.Fprint(p.Stdout, strings.Join(p.Args[2:], "\n"))
	case "env":
		fmt.Fprint(p.Stdout, strings.Join(p.Env, "\n"))
	case "say": // on both streams
		fmt.Fprint(p.Stdout, "out "+arg(2))
		fmt.Fprint(p.Stderr, "err "+arg(2))
	case "big": // a number of bytes
		block := make([]byte, 64<<10)
		for left := number(2); left > 0; {
			n, err := p.Stdout.Write(block[:min(left, len(block))])
			if err != nil {
				return 1
			}
			left -= n
		}
	case "close": // standard output, and go on until standard input ends
		p.Stdout.Close()
		io.Copy(io.Discard, p.Stdin)
		return 3
	case "deaf": // close standard input, then answer
		p.Stdin.Close()
		fmt.Fprint(p.Stdout, "did not listen")
	case "term": // end when asked to
		fmt.Fprint(p.Stdout, "ready\n")
		<-p.Term
		fmt.Fprint(p.Stdout, "asked to end\n")
	case "hang": // whatever is asked
		fmt.Fprint(p.Stdout, "ready\n")
		for {
			time.Sleep(time.Hour)
		}
	default:
		fmt.Fprintf(p.Stderr, "what is %q?\n", arg(1))
		return 64
	}
	return 0
}

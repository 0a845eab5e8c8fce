// Package program is what runs inside the sandboxes of sandboxtest: one program
// whose first argument says what to do. A driver that executes real programs runs
// it as a program of its own (package prog beside it); one that runs functions of
// the test process calls Main.
package program

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
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

	Sockets string // the directory that Spec.Sockets asked for; "": the value of SOCKETS in Env
	Listen  string // where Spec.Listen is; "": what the arguments say
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
	case "serve": // sockets, as the lines of standard input say
		if p.Sockets == "" {
			for _, e := range p.Env {
				if dir, ok := strings.CutPrefix(e, "SOCKETS="); ok {
					p.Sockets = dir
				}
			}
		}
		return serve(p, arg(2))
	case "connect": // at once to an address; say what the other side answers to a word
		c, err := net.Dial("tcp", cmp.Or(p.Listen, arg(2)))
		if err != nil {
			fmt.Fprintln(p.Stderr, err)
			return 1
		}
		fmt.Fprintln(p.Stdout, "connected")
		fmt.Fprintln(c, arg(3))
		io.Copy(p.Stdout, c)
		c.Close()
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
		rest()
	case "rest": // and say nothing
		rest()
	default:
		fmt.Fprintf(p.Stderr, "what is %q?\n", arg(1))
		return 64
	}
	return 0
}

func rest() {
	for {
		time.Sleep(time.Hour)
	}
}

// serve carries out the lines of standard input and answers each with "ok" or an
// error. A path in a line that begins with @ is one of the directory for sockets.
//
//	listen unix|tcp ADDRESS  answer each connection with word
//	close ADDRESS            listen there no more, but leave the socket
//	mode PATH OCTAL
//	link TARGET PATH
//	file PATH
//	fifo PATH
//	remove PATH
func serve(p Proc, word string) int {
	listeners := make(map[string]net.Listener)
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	lines := bufio.NewScanner(p.Stdin)
	for lines.Scan() {
		args := strings.Fields(lines.Text() + " - - -")
		for i, a := range args {
			if name, ok := strings.CutPrefix(a, "@"); ok {
				args[i] = filepath.Join(p.Sockets, name)
			}
		}
		var err error
		switch args[0] {
		case "listen":
			var l net.Listener
			if l, err = net.Listen(args[1], args[2]); err != nil {
				break
			}
			if u, ok := l.(*net.UnixListener); ok {
				u.SetUnlinkOnClose(false)
				err = os.Chmod(args[2], 0o666)
			}
			listeners[args[2]] = l
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					io.WriteString(c, word)
					c.Close()
				}
			}()
		case "close":
			err = listeners[args[1]].Close()
		case "mode":
			var mode uint64
			if mode, err = strconv.ParseUint(args[2], 8, 32); err == nil {
				err = os.Chmod(args[1], os.FileMode(mode))
			}
		case "link":
			err = os.Symlink(args[1], args[2])
		case "file":
			err = os.WriteFile(args[1], nil, 0o666)
		case "fifo":
			err = syscall.Mkfifo(args[1], 0o666)
		case "remove":
			err = os.Remove(args[1])
		default:
			err = fmt.Errorf("what is %q?", args[0])
		}
		if err != nil {
			fmt.Fprintln(p.Stdout, err)
			continue
		}
		fmt.Fprintln(p.Stdout, "ok")
	}
	return 0
}

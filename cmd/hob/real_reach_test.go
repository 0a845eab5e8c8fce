package main

import (
	"context"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"hob/client"
	"hob/faas"
	"hob/internal/testenv"
)

// ownAddress is an address of this machine that is not loopback.
func ownAddress(t *testing.T) string {
	t.Helper()
	testenv.NeedFeature(t, testenv.Address)
	addr, err := testenv.OwnAddress()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// TestRefusedConnectionIsOpenedByTheCommandInTheLog: what the log of a function says
// is carried out word for word.
func TestRefusedConnectionIsOpenedByTheCommandInTheLog(t *testing.T) {
	l, err := net.Listen("tcp", net.JoinHostPort(ownAddress(t), "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { // it ends with the listener
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "hello\n")
			conn.Close()
		}
	}()
	host, port, _ := net.SplitHostPort(l.Addr().String())
	s := serve(t)
	s.run(nil, "image", "build", "-t", "busybox", busyboxRoot(t))
	s.run(nil, "app", "create", "shop")
	dial := []string{"/bin/busybox", "sh", "-c", "/bin/busybox nc -w 5 " + host + " " + port + " </dev/null; true"}
	s.run(nil, append([]string{"create", "--name", "shop/dials", "--entrypoint", "", "hob.local/busybox"}, dial...)...)
	if got := s.run(nil, "call", "shop/dials"); len(got) > 0 {
		t.Fatalf("before it is allowed the function gets %q", got)
	}
	_, command, ok := strings.Cut(s.refused("shop", "dials"), "; this opens it: hob ")
	if !ok {
		t.Fatal("the log names no command")
	}
	s.run(nil, strings.Fields(command)...)
	if got := string(s.run(nil, "call", "shop/dials")); got != "hello\n" {
		t.Errorf("after hob %s the function gets %q", command, got)
	}
	s.run(nil, "update", "shop/dials", "--disallow", l.Addr().String())
	if got := s.run(nil, "call", "shop/dials"); len(got) > 0 {
		t.Errorf("when it is not allowed any more the function gets %q", got)
	}

	// Without a server, the command is another one.
	dir := t.TempDir()
	s.run(nil, "init", "--runtime", "shell", "--base", "hob.local/busybox", "--entrypoint", "/bin/busybox nc -w 5 "+host+" "+port, dir)
	out, err := exec.CommandContext(t.Context(), s.hob, "--server", "http://"+s.addr, "run", dir).CombinedOutput()
	if _, command, ok = strings.Cut(string(out), "; this opens it: hob "); !ok {
		t.Fatalf("hob run: %v, %s", err, out)
	}
	command, _, _ = strings.Cut(command, "\n")
	if got := string(s.run(nil, append(strings.Fields(command), dir)...)); got != "hello\n" {
		t.Errorf("hob %s says %q", command, got)
	}
}

// refused waits for the line in the log of a function that tells of a refused connection.
func (s *realServer) refused(app, function string) string {
	s.t.Helper()
	cl, err := client.New("http://" + s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeoutCause(s.t.Context(), time.Minute, faas.Errorf(faas.TimedOut, "the log tells of no refused connection"))
	defer cancel()
	for line, err := range cl.Logs(ctx, client.LogSelection{App: app, Function: function, Tail: -1, Follow: true}) {
		if err != nil {
			s.t.Fatal(err)
		}
		if strings.HasPrefix(line.Text, "refused: ") {
			return line.Text
		}
	}
	return ""
}

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"hob/internal/config"
)

// logged returns what a log with these settings writes to stderr.
func logged(t *testing.T, set func(*config.Config)) string {
	t.Helper()
	cfg := config.Default()
	set(&cfg)
	if err := cfg.Check(); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	log, dest, err := newLog(&stderr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	log.Info("level=ERROR it says", "image", "a b")
	log.Error("out of order")
	log.Debug("not at this level")
	if err := dest.Close(); err != nil {
		t.Error(err)
	}
	return stderr.String()
}

func TestLogOfTheDaemonHasAFormatAndAPrefix(t *testing.T) {
	for format, want := range map[string]string{
		"text": `^node1 time=\S+ level=INFO msg="level=ERROR it says" image="a b"\nnode1 time=\S+ level=ERROR msg="out of order"\n$`,
		"json": `^{"time":"[^"]+","level":"INFO","msg":"level=ERROR it says","prefix":"node1","image":"a b"}\n{.*"level":"ERROR",.*}\n$`,
	} {
		got := logged(t, func(c *config.Config) { c.LogFormat, c.LogPrefix = format, "node1" })
		if !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("%s: got\n%swant %s", format, got, want)
		}
	}
}

func TestLogOfTheDaemonGoesToAFileThatGrows(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hob.log")
	for range 2 {
		if got := logged(t, func(c *config.Config) { c.LogDest = "file://" + file }); got != "" {
			t.Errorf("standard error has %q", got)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil || strings.Count(string(data), "out of order") != 2 {
		t.Errorf("%v, the file has\n%s", err, data)
	}
	cfg := config.Default()
	cfg.LogDest = "file:///is/not/there/hob.log"
	if _, _, err := newLog(io.Discard, cfg); err == nil || !strings.Contains(err.Error(), "/is/not/there/hob.log") {
		t.Errorf("a file that cannot be made: %v", err)
	}
}

// fromHob is a message of RFC 5424 that a line of the log becomes.
const fromHob = `<%d>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z \S+ hob \d+ - - time=\S+ level=%s msg=`

func TestLogOfTheDaemonGoesToASyslogDaemon(t *testing.T) {
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	if got := logged(t, func(c *config.Config) { c.LogDest = "udp://" + udp.LocalAddr().String() }); got != "" {
		t.Errorf("standard error has %q", got)
	}
	for _, want := range []string{fmt.Sprintf(fromHob, 30, "INFO"), fmt.Sprintf(fromHob, 27, "ERROR")} {
		buf := make([]byte, 2048)
		n, _, err := udp.ReadFrom(buf)
		if err != nil || !regexp.MustCompile("^"+want+".*[^\n]$").Match(buf[:n]) {
			t.Errorf("%v, got %q, want %s", err, buf[:n], want)
		}
	}

	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	if got := logged(t, func(c *config.Config) { c.LogDest = "tcp://" + tcp.Addr().String() }); got != "" {
		t.Errorf("standard error has %q", got)
	}
	conn, err := tcp.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	for _, want := range []string{fmt.Sprintf(fromHob, 30, "INFO"), fmt.Sprintf(fromHob, 27, "ERROR")} {
		digits, _ := in.ReadString(' ')
		size, err := strconv.Atoi(strings.TrimSpace(digits))
		if err != nil || size > 2048 {
			t.Fatalf("%v, a message of %d bytes", err, size)
		}
		buf := make([]byte, size)
		if _, err := io.ReadFull(in, buf); err != nil || !regexp.MustCompile("^"+want+".*\n$").Match(buf) {
			t.Errorf("%v, got %q, want %s", err, buf, want)
		}
	}
}

func TestLinesThatNoSyslogDaemonTakesGoToStandardError(t *testing.T) {
	const addr = "127.0.0.1:1" // nobody listens there
	got := logged(t, func(c *config.Config) { c.LogDest = "tcp://" + addr })
	if strings.Count(got, "\n") != 3 || !strings.Contains(got, addr) || !strings.Contains(got, "out of order") {
		t.Errorf("standard error has\n%s", got)
	}
}

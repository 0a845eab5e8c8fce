package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"sync"
	"time"

	"hob/faas"
	"hob/internal/config"
)

// newLog is the daemon's own log; what functions write is not in it. The caller
// closes it.
func newLog(stderr io.Writer, cfg config.Config) (*slog.Logger, io.Closer, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
		return nil, nil, faas.Errorf(faas.Invalid, "log-level (from %s): %w", cfg.Origin("log-level"), err)
	}
	dest, err := openLog(stderr, cfg)
	if err != nil {
		return nil, nil, err
	}
	opt := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "json" {
		log := slog.New(slog.NewJSONHandler(dest, opt))
		if cfg.LogPrefix != "" {
			log = log.With("prefix", cfg.LogPrefix)
		}
		return log, dest, nil
	}
	return slog.New(slog.NewTextHandler(prefixed{dest, cfg.LogPrefix}, opt)), dest, nil
}

// prefixed puts a text before each line: a handler writes one at a time.
type prefixed struct {
	to   io.Writer
	text string
}

func (p prefixed) Write(line []byte) (int, error) {
	if p.text == "" {
		return p.to.Write(line)
	}
	if _, err := p.to.Write(append([]byte(p.text+" "), line...)); err != nil {
		return 0, err
	}
	return len(line), nil
}

// openLog opens what log-dest names.
func openLog(stderr io.Writer, cfg config.Config) (io.WriteCloser, error) {
	bad := func(err error) error {
		return faas.Errorf(faas.Invalid, "log-dest (from %s): %w", cfg.Origin("log-dest"), err)
	}
	if cfg.LogDest == "stderr" {
		return leftOpen{stderr}, nil
	}
	u, err := url.Parse(cfg.LogDest)
	if err != nil {
		return nil, bad(err)
	}
	if u.Scheme != "file" {
		return startSyslog(u.Scheme, u.Host, stderr), nil
	}
	f, err := os.OpenFile(u.Path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, bad(err)
	}
	return f, nil
}

// leftOpen is a writer that Close leaves open.
type leftOpen struct{ io.Writer }

func (leftOpen) Close() error { return nil }

// Limits of what goes to a syslog daemon.
const (
	syslogQueue    = 1024            // lines that wait
	syslogPatience = 5 * time.Second // for a connection, or one line
)

// syslog sends lines to a syslog daemon (RFC 5424, over TCP with their lengths
// before them). The one who logs never waits for it: lines that it does not take
// go to another writer, and those for which there is no room are counted.
type syslog struct {
	network, addr string
	instead       io.Writer
	name          string // of this machine
	conn          net.Conn
	down          time.Time // no connection is tried before
	ended         chan struct{}

	lines chan []byte // written to and closed with mu held

	mu      sync.Mutex
	closed  bool // guarded by mu, as dropped
	dropped int
}

// startSyslog returns one that works until Close.
func startSyslog(network, addr string, instead io.Writer) *syslog {
	s := &syslog{network: network, addr: addr, instead: instead, name: "-", lines: make(chan []byte, syslogQueue), ended: make(chan struct{})}
	if name, err := os.Hostname(); err == nil {
		s.name = name
	}
	go s.run()
	return s
}

// Write takes a line.
func (s *syslog) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, os.ErrClosed
	}
	select {
	case s.lines <- bytes.Clone(line):
	default:
		s.dropped++
	}
	return len(line), nil
}

// Close sends what waits, as far as the syslog daemon takes it, and ends.
func (s *syslog) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.lines)
	}
	s.mu.Unlock()
	<-s.ended
	return nil
}

func (s *syslog) run() {
	defer close(s.ended)
	for line := range s.lines {
		s.mu.Lock()
		dropped := s.dropped
		s.dropped = 0
		s.mu.Unlock()
		if dropped > 0 {
			fmt.Fprintf(s.instead, "hob: %d lines of the log were dropped: the syslog daemon at %s is too slow\n", dropped, s.addr)
		}
		if !s.send(line) {
			s.instead.Write(line)
		}
	}
	if s.conn != nil {
		s.conn.Close()
	}
}

// send reports whether the syslog daemon took the line, by a new connection if the
// old one is broken.
func (s *syslog) send(line []byte) bool {
	for range 2 {
		if s.conn == nil && !s.dial() {
			return false
		}
		s.conn.SetWriteDeadline(time.Now().Add(syslogPatience))
		if _, err := s.conn.Write(s.message(line)); err == nil {
			return true
		}
		s.conn.Close()
		s.conn = nil
	}
	return false
}

func (s *syslog) dial() bool {
	if time.Now().Before(s.down) {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), syslogPatience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, s.network, s.addr)
	if err != nil {
		fmt.Fprintf(s.instead, "hob: the log goes here for now: %v\n", err)
		s.down = time.Now().Add(syslogPatience)
		return false
	}
	s.conn = conn
	return true
}

// message is a line as syslog daemons take it, of facility daemon.
func (s *syslog) message(line []byte) []byte {
	severity := 6
	_, level, _ := bytes.Cut(line, []byte("level")) // level=INFO or "level":"INFO", before anything that is not ours
	switch level = bytes.TrimLeft(level, `":=`); {
	case bytes.HasPrefix(level, []byte("ERROR")):
		severity = 3
	case bytes.HasPrefix(level, []byte("WARN")):
		severity = 4
	case bytes.HasPrefix(level, []byte("DEBUG")):
		severity = 7
	}
	m := fmt.Appendf(nil, "<%d>1 %s %s hob %d - - %s", 3*8+severity, time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"), s.name, os.Getpid(), bytes.TrimRight(line, "\n"))
	if s.network == "tcp" {
		m = append(fmt.Appendf(nil, "%d ", len(m)+1), append(m, '\n')...)
	}
	return m
}

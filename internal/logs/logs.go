// Package logs keeps what functions write and how calls ended: the lines of each
// function and the journal of finished calls, both in capped segment files.
//
// Writers and Record only put things into bounded buffers in memory; Run, and
// whoever reads, bring them to the disk. So a call never waits for the disk
// longer than a moment (writerPatience), and what the disk cannot take is
// dropped and counted, never kept in memory and never a reason to stop. Lines
// and records that were not yet on the disk when the daemon dies are lost:
// those of the last flushDelay, if the disk keeps up.
//
// Lines of functions whose app has a syslog server go there, too, from memory of
// their own: neither a function nor the log waits for a server.
//
// It knows functions and calls by their IDs only; who may read is decided above.
// README.md in this directory states the format of a segment.
package logs

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"hob/faas"
)

// Config is what a Store is made of.
type Config struct {
	Dir string // made if it is missing, for the owner alone

	PerFunction faas.Bytes    // lines kept of one function; 0: 50 MB
	Total       faas.Bytes    // lines kept of all functions; 0: 2 GB
	MaxAge      time.Duration // of lines; 0: no limit
	PerSecond   faas.Bytes    // lines taken of one function, with some 45 bytes more for each; twice that at once; 0: 8 MB

	JournalBytes faas.Bytes    // records of calls kept; 0: 1 GB
	JournalAge   time.Duration // of records; 0: no limit

	// Syslog says where the lines of the function with this ID go besides, and is
	// asked while it writes: it must not wait. nil: nowhere.
	Syslog func(funcID string) Source
	// Dial connects to a server for the Owner of a Source, by "tcp" or "udp" to "host:port", by
	// "unix" or "unixgram" to a path. nil: anywhere.
	Dial        func(ctx context.Context, owner, network, address string) (net.Conn, error)
	SyslogRoots *x509.CertPool // who vouches for servers of tcp+tls; nil: whom the system trusts

	Log  *slog.Logger // nil: nothing is logged
	Echo bool         // each line of a function is one of Log, too; Syslog says whose it is
}

// Limits of what is in memory and of the files.
const (
	maxLine      = 64 << 10  // bytes of text; a longer line is cut into several
	bufferSize   = 256 << 10 // frames of one function that wait for the disk; twice that while it is written
	segmentSize  = 4 << 20   // less where the limit is small
	leastSegment = 64 << 10

	// flushDelay is how long a line may wait for company on its way to the disk.
	flushDelay = 10 * time.Millisecond
	// writerPatience is how long a writer waits for room before lines are dropped.
	writerPatience = 100 * time.Millisecond
)

// Store keeps logs. Make one with Open; run it with Run; end with Close, when
// Run has returned. Its other methods may be called from many goroutines, and
// before Run.
//
// Locks nest in this order: function.flushing, then function.mu and within it
// Store.mu, or series.mu.
type Store struct {
	config  Config
	dir     string // of the functions' series
	used    atomic.Int64
	journal *journal
	syslog  *forwarder
	echo    *echo // nil: there is none
	health  health
	buffers sync.Pool // *[]byte: for frames on their way

	overLimit string // why a writer drops lines

	mu        sync.Mutex
	functions map[string]*function // guarded by mu, as all below; by ID
	dirty     map[*function]bool   // have lines for the disk
	closed    bool

	ending chan struct{} // closed when followers must end
	end    func()        // closes it, once

	wake   chan struct{} // capacity 1: dirty is not empty any more
	hurry  chan struct{} // capacity 1: a buffer fills up
	tooBig chan struct{} // capacity 1: used is over the limit
}

// Open opens the logs in config.Dir. It reads nothing yet.
func Open(config Config) (*Store, error) {
	config.PerFunction = cmp.Or(config.PerFunction, 50*faas.MB)
	config.Total = cmp.Or(config.Total, 2*faas.GB)
	config.PerSecond = cmp.Or(config.PerSecond, 8*faas.MB)
	config.JournalBytes = cmp.Or(config.JournalBytes, faas.GB)
	config.Log = cmp.Or(config.Log, slog.New(slog.DiscardHandler))
	s := &Store{
		config:    config,
		dir:       filepath.Join(config.Dir, "functions"),
		functions: make(map[string]*function),
		ending:    make(chan struct{}),
		wake:      make(chan struct{}, 1),
		hurry:     make(chan struct{}, 1),
		tooBig:    make(chan struct{}, 1),
		overLimit: fmt.Sprintf("over the limit of %v a second", config.PerSecond),
	}
	s.end = sync.OnceFunc(func() { close(s.ending) })
	s.health.log = config.Log
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the logs: %w", err)
	}
	s.journal = newJournal(s)
	s.syslog = newForwarder(s)
	if config.Echo {
		s.echo = &echo{log: config.Log, wake: make(chan struct{}, 1)}
	}
	return s, nil
}

// sizeOfSegments is how large a segment may become where limit is the size of all.
func sizeOfSegments(limit faas.Bytes) int64 {
	return max(leastSegment, min(segmentSize, int64(limit)/8))
}

// Run brings lines and records to the disk and removes what is too old or too
// much, until ctx ends; then it brings the rest to the disk.
func (s *Store) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { s.flushUntil(ctx) })
	wg.Go(func() { s.journal.run(ctx) })
	wg.Go(func() { s.sweepUntil(ctx) })
	if s.echo != nil {
		wg.Go(func() { s.echo.run(ctx) })
	}
	wg.Wait()
	return nil
}

// flushUntil is the part of Run that writes lines.
func (s *Store) flushUntil(ctx context.Context) {
	delay := time.NewTimer(0)
	defer delay.Stop()
	for ctx.Err() == nil {
		select {
		case <-s.wake:
		case <-ctx.Done():
		}
		delay.Reset(flushDelay)
		select {
		case <-delay.C:
		case <-s.hurry:
		case <-ctx.Done():
		}
		s.flush()
	}
}

// flush brings all lines to the disk.
func (s *Store) flush() {
	s.mu.Lock()
	dirty := s.dirty
	s.dirty = nil
	s.mu.Unlock()
	for f := range dirty {
		f.flush()
	}
}

// Close sends what waits for syslog servers, for up to 2 s, and brings what is left
// to the disk. Lines and records that come later are dropped. Called again it does
// nothing.
func (s *Store) Close() error {
	s.syslog.close()
	s.flush()
	s.journal.flush()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.journal.close()
	s.flush() // what came between
	s.journal.flush()
	if s.echo != nil {
		s.echo.flush()
	}
	return s.health.err()
}

// EndFollowers ends those who follow a log, when they have what was written before,
// with an error of kind Busy; and all who begin to follow later.
func (s *Store) EndFollowers() { s.end() }

// Fault is nil while logs can be written. Else it is an error of kind Busy that
// says why lines and records are being dropped; it passes by itself, at the latest
// five seconds after the last write that failed.
func (s *Store) Fault() error { return s.health.err() }

// Forget removes the lines of a function that was deleted, ends those who
// follow them, and drops what is written later.
func (s *Store) Forget(funcID string) {
	f, err := s.function(funcID)
	if err != nil {
		return // no such function can have lines
	}
	f.forget()
	if err := f.series.removeAll(); err != nil {
		s.config.Log.Error("logs of a deleted function cannot be removed", "function", funcID, "err", err)
	}
}

// function returns the function with this ID. An ID that could not name a
// directory is Invalid.
func (s *Store) function(id string) (*function, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.functions[id]
	if f == nil {
		f = &function{store: s, series: &series{
			dir:         filepath.Join(s.dir, id),
			segmentSize: sizeOfSegments(s.config.PerFunction),
			limit:       int64(s.config.PerFunction),
			age:         s.config.MaxAge,
			id:          lineID,
			note:        func(bytes int64) []byte { return appendLine(nil, time.Now(), "", streamHob, damageText(bytes)) },
			used:        &s.used,
			log:         s.config.Log,
		}}
		s.functions[id] = f
	}
	return f, nil
}

// checkID reports whether id can be the name of a directory.
func checkID(id string) error {
	for i := range len(id) {
		c := id[i]
		if !(c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '-' || c == '_') {
			return faas.Errorf(faas.Invalid, "%q is no ID of a function", id)
		}
	}
	if id == "" || len(id) > 64 {
		return faas.Errorf(faas.Invalid, "%q is no ID of a function", id)
	}
	return nil
}

// queue says that f has lines for the disk. It reports false if the store is closed.
func (s *Store) queue(f *function) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.dirty == nil {
		s.dirty = make(map[*function]bool)
	}
	s.dirty[f] = true
	signal(s.wake)
	return true
}

// signal leaves a word in a channel of capacity 1, unless there is one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// health is whether the disk takes what we write. It says once that it does not,
// and once that it does again.
type health struct {
	log *slog.Logger

	mu      sync.Mutex
	fault   error     // guarded by mu, as all below; nil: all is well
	last    time.Time // of the last write that failed
	dropped int       // lines and records since fault
}

// faultAge is how long after the last failed write Fault tells of it. Who has
// nothing to write cannot find out that there is room again.
const faultAge = 5 * time.Second

// report notes the outcome of a write of n lines or records.
func (h *health) report(err error, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.last = time.Now()
	}
	switch {
	case err != nil && h.fault == nil:
		h.log.Warn("logs cannot be written: lines and records are dropped until they can", "err", err)
		h.fault, h.dropped = err, n
	case err != nil:
		h.dropped += n
	case h.fault != nil:
		h.log.Info("logs are written again", "dropped", h.dropped)
		h.fault = nil
	}
}

func (h *health) err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fault == nil || time.Since(h.last) > faultAge {
		return nil
	}
	return faas.Errorf(faas.Busy, "logs cannot be written, %d lines and records are dropped: %w", h.dropped, h.fault)
}

// inWords is why lines were dropped, for their readers: the operator's paths
// stay in the daemon's log.
func inWords(err error) string {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return "the disk is full"
	}
	return "the disk cannot be written"
}

package logs

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"hob/faas"
)

// Limits of forwarding to syslog servers.
const (
	queueSize  = 1 << 20  // bytes that wait for one server; twice that while they are sent
	queuesSize = 64 << 20 // bytes that wait for, or are sent to, all servers
	mostAtOnce = 1000     // servers that there are lines or connections for

	dialPatience  = 10 * time.Second // for a connection
	writePatience = 10 * time.Second // for a server that takes nothing
	leastPause    = 100 * time.Millisecond
	mostPause     = 10 * time.Second // between two attempts; each pause is twice that before it
	closePatience = 2 * time.Second  // for what waits when the store is closed
	idleAfter     = time.Minute      // without a line a connection is given up
	giveUpAfter   = 10 * time.Minute // without a new line, those that wait for a dead server are dropped
	warnEvery     = time.Minute      // before we say again that a server cannot be reached
)

// forwarder brings lines to syslog servers. It has a destination for each that
// there are lines for, and the lines of none wait for another's.
//
// Locks nest: mu, then destination.mu.
type forwarder struct {
	store    *Store
	hostname string
	dropped  atomic.Uint64 // lines that reached no server
	queued   atomic.Int64  // bytes of all destinations

	ctx      context.Context // of all destinations; ends when they must end at once
	stop     context.CancelFunc
	draining chan struct{}  // closed when they must end when they have sent what waits
	running  sync.WaitGroup // their goroutines

	mu           sync.Mutex
	closed       bool // guarded by mu, as all below
	destinations map[server]*destination
	latest       map[string]*destination // where the last line of a function went, by its ID
	refused      map[string]bool         // IDs of functions that were told, since refusing, that there are too many servers
	refusing     time.Time
}

// server is where lines go, and for whom.
type server struct{ owner, url string }

func newForwarder(s *Store) *forwarder {
	hostname, _ := os.Hostname() // "" becomes "-"
	f := &forwarder{
		store: s, hostname: hostname, draining: make(chan struct{}),
		destinations: make(map[server]*destination), latest: make(map[string]*destination), refused: make(map[string]bool),
	}
	f.ctx, f.stop = context.WithCancel(context.Background())
	return f
}

// send hands on a line. It never waits for a server: a line for which there is no
// room is dropped and counted.
func (f *forwarder) send(m *message) {
	for {
		d := f.destination(m)
		if d == nil {
			f.dropped.Add(1)
			f.refuse(m)
			return
		}
		if d.add(m) {
			return
		}
	}
}

// destination returns that of m, or nil when f is closed or has mostAtOnce others.
// The one before of the same function learns that it has left.
func (f *forwarder) destination(m *message) *destination {
	to := server{m.from.Owner, m.from.Syslog}
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.destinations[to]
	if d == nil && !f.closed && len(f.destinations) < mostAtOnce {
		d = newDestination(f, to)
		f.destinations[to] = d
		f.running.Go(func() { d.run(f.ctx) })
	}
	before := f.latest[m.funcID]
	if before == d {
		return d
	}
	if before != nil {
		before.leave(m.funcID)
		delete(f.latest, m.funcID)
	}
	if d != nil {
		f.latest[m.funcID] = d
	}
	return d
}

// heir returns where the lines of a function go that has left d, if that is the same
// server; else nil.
func (f *forwarder) heir(d *destination, funcID string) *destination {
	f.mu.Lock()
	defer f.mu.Unlock()
	if to := f.latest[funcID]; to != nil && to != d && to.to.url == d.to.url {
		return to
	}
	return nil
}

// refuse says why a line was dropped for which there is no destination, once in
// warnEvery for each function and once for all.
func (f *forwarder) refuse(m *message) {
	f.mu.Lock()
	anew := time.Since(f.refusing) >= warnEvery
	if anew {
		f.refusing = time.Now()
		clear(f.refused)
	}
	quiet := f.closed || f.refused[m.funcID]
	f.refused[m.funcID] = true
	f.mu.Unlock()
	if quiet {
		return
	}
	if anew {
		f.store.config.Log.Warn("too many syslog servers at once: lines for others are dropped", "most", mostAtOnce)
	}
	f.store.remark(m.funcID, fmt.Sprintf("… lines are not sent to %s: there are lines for %d other syslog servers, and no more at once", m.from.Syslog, mostAtOnce))
}

// remove ends d unless it has lines, and reports whether it did.
func (f *forwarder) remove(d *destination) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = len(d.queue.entries) == 0
	if d.ended {
		delete(f.destinations, d.to)
		for id := range d.senders {
			if f.latest[id] == d {
				delete(f.latest, id)
			}
		}
	}
	return d.ended
}

// close gives servers closePatience to take what waits, and returns when nothing
// of f runs any more. Lines that come later are dropped. Called again it does nothing.
func (f *forwarder) close() {
	f.mu.Lock()
	closed := f.closed
	f.closed = true
	f.mu.Unlock()
	if !closed {
		close(f.draining)
		timer := time.AfterFunc(closePatience, f.stop)
		defer timer.Stop()
	}
	f.running.Wait()
	f.stop()
}

// dial connects to a server. A stream is TCP, a Unix socket or TLS, whose
// certificate must be that of the host.
func (f *forwarder) dial(ctx context.Context, to server) (net.Conn, error) {
	if err := faas.CheckSyslog(to.url); err != nil {
		return nil, err
	}
	u, err := url.Parse(to.url)
	if err != nil {
		return nil, fmt.Errorf("syslog URL: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	connect := f.store.config.Dial
	if connect == nil {
		connect = func(ctx context.Context, _, network, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		}
	}
	switch u.Scheme {
	case "unix", "unixgram":
		return connect(ctx, to.owner, u.Scheme, u.Path)
	case "tcp+tls":
		conn, err := connect(ctx, to.owner, "tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "6514")))
		if err != nil {
			return nil, err
		}
		secure := tls.Client(conn, &tls.Config{RootCAs: f.store.config.SyslogRoots, ServerName: u.Hostname(), MinVersion: tls.VersionTLS12})
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		return secure, nil
	}
	return connect(ctx, to.owner, u.Scheme, net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "514")))
}

// SyslogDropped is how many lines could not be sent to a syslog server, since
// Open. Lines that are lost on the way, as UDP loses them, nobody counts.
func (s *Store) SyslogDropped() uint64 { return s.syslog.dropped.Load() }

// remark adds a line of hob's own to a function's log.
func (s *Store) remark(funcID, text string) {
	f, err := s.function(funcID)
	if err != nil {
		return // a function without an ID has no log
	}
	f.add(time.Now(), kindLine, "", streamHob, []byte(text))
	f.wakeFollowers()
}

package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"hob/faas"
)

// chunkSize is how much a server must take within writePatience.
const chunkSize = 64 << 10

// destination is a syslog server and the lines that wait for it. One goroutine
// sends them, in order: run, which the forwarder starts and waits for.
type destination struct {
	forwarder *forwarder
	to        server
	scheme    string // of it, in lower case
	datagrams bool   // a message is a datagram; else it ends with a line end
	counted   bool   // its length stands before it
	limit     int    // bytes of a message

	wake chan struct{} // capacity 1: there are lines

	// Of run alone.
	link   *link     // nil: none
	warned time.Time // when we last said that the server cannot be reached
	down   bool      // we have said so, and not yet that it can be again

	mu      sync.Mutex
	queue   messages           // guarded by mu, as all below
	spare   []byte             // for the bytes of the next queue
	senders map[string]*sender // by the function's ID
	lost    bool               // a sender has lost lines and was not told
	latest  time.Time          // when the last line came
	ended   bool               // no lines are taken any more
}

// sender is a function with lines for a destination.
type sender struct {
	id   string
	lost int  // lines that were dropped and its log does not say so yet
	told bool // its log says that the server cannot be reached
	left bool // its lines go elsewhere now
}

// messages is what waits, or is being sent.
type messages struct {
	bytes   []byte
	entries []entry // that are not sent yet
	size    int64   // of bytes, as counted in forwarder.queued
}

// entry is one message: the bytes between the two.
type entry struct {
	start, end int
	from       *sender
}

func newDestination(f *forwarder, to server) *destination {
	scheme, _, _ := strings.Cut(strings.ToLower(to.url), "://")
	d := &destination{
		forwarder: f, to: to, scheme: scheme, limit: messageSize,
		wake: make(chan struct{}, 1), senders: make(map[string]*sender),
	}
	switch scheme {
	case "udp":
		d.datagrams, d.limit = true, messageSizeUDP
	case "unixgram":
		d.datagrams = true
	case "tcp+tls":
		d.counted = true // RFC 5425; the other streams go by lines, as Docker's do for Fn
	}
	return d
}

// add puts a line into the queue, or drops it. It reports false if d has ended.
func (d *destination) add(m *message) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return false
	}
	from := d.sender(m.funcID)
	from.left = false
	d.latest = time.Now()
	q := &d.queue
	if len(q.bytes)+len(m.text) > queueSize || d.forwarder.queued.Load()+int64(len(m.text)) > queuesSize {
		d.lose(from)
		return true
	}
	before := len(q.bytes)
	var space [1 << 10]byte
	head := m.appendHead(space[:0], d.forwarder.hostname)
	for piece := range m.pieces(d.limit, len(head)+1) {
		start := len(q.bytes)
		if d.counted {
			q.bytes = strconv.AppendInt(q.bytes, int64(len(head)+len(piece)+1), 10)
			q.bytes = append(q.bytes, ' ')
		}
		q.bytes = append(append(q.bytes, head...), piece...)
		if !d.datagrams {
			q.bytes = append(q.bytes, '\n')
		}
		q.entries = append(q.entries, entry{start, len(q.bytes), from})
	}
	q.size += int64(len(q.bytes) - before)
	d.forwarder.queued.Add(int64(len(q.bytes) - before))
	signal(d.wake)
	return true
}

// sender returns that of a function's ID. Precondition: d.mu is held.
func (d *destination) sender(funcID string) *sender {
	s := d.senders[funcID]
	if s == nil {
		s = &sender{id: funcID}
		d.senders[funcID] = s
	}
	return s
}

// lose counts a line that is dropped. Precondition: d.mu is held.
func (d *destination) lose(from *sender) {
	from.lost++
	d.lost = true
	signal(d.wake)
	d.forwarder.dropped.Add(1)
}

// leave says that the lines of a function go elsewhere from now on.
func (d *destination) leave(funcID string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.senders[funcID]; s != nil {
		s.left = true
		signal(d.wake)
	}
}

// unused reports whether all functions that had lines for d have left it.
func (d *destination) unused() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.senders {
		if !s.left {
			return false
		}
	}
	return len(d.senders) > 0
}

// run sends what comes, until nothing has for idleAfter, nobody has lines for d any
// more, or the forwarder ends.
func (d *destination) run(ctx context.Context) {
	defer func() { _ = d.hangUp() }()
	for d.wait(ctx) {
		b := d.take()
		if len(b.entries) == 0 {
			d.tell(nil, false, false)
		}
		for pause := leastPause; len(b.entries) > 0; pause = min(2*pause, mostPause) {
			err := d.send(ctx, &b)
			if faas.KindOf(err) == faas.Denied {
				d.handOn(&b)
			}
			d.report(err)
			if err != nil && len(b.entries) > 0 && !d.again(pause) {
				d.drop(b, err)
				break
			}
		}
		d.done(b)
	}
	d.tell(nil, false, false)
}

// done forgets b, and keeps its memory unless that is much.
func (d *destination) done(b messages) {
	d.forwarder.queued.Add(-b.size)
	if cap(b.bytes) <= queueSize/4 {
		d.mu.Lock()
		d.spare = b.bytes[:0]
		d.mu.Unlock()
	}
}

// wait waits for lines. It reports false when d has ended.
func (d *destination) wait(ctx context.Context) bool {
	idle := time.NewTimer(idleAfter)
	defer idle.Stop()
	for {
		if d.unused() && d.forwarder.remove(d) {
			return false
		}
		var gone <-chan struct{}
		if d.link != nil {
			gone = d.link.gone
		}
		select {
		case <-d.wake:
			return true
		case <-gone:
			if err := d.hangUp(); err != nil && ctx.Err() == nil {
				d.report(err)
			}
			continue
		case <-idle.C:
		case <-d.forwarder.draining:
		}
		return !d.forwarder.remove(d)
	}
}

// take takes the queue.
func (d *destination) take() messages {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.queue
	d.queue, d.spare = messages{bytes: d.spare}, nil
	return b
}

// again waits before another attempt. It reports false if there is to be none.
func (d *destination) again(pause time.Duration) bool {
	select {
	case <-d.forwarder.draining: // that was the last attempt
		return false
	default:
	}
	d.mu.Lock()
	latest := d.latest
	d.mu.Unlock()
	if time.Since(latest) > giveUpAfter {
		return false
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-d.forwarder.draining:
	}
	return true
}

// drop drops what is left of b, and what has come since.
func (d *destination) drop(b messages, why error) {
	rest := d.take()
	d.forwarder.queued.Add(-rest.size)
	d.mu.Lock()
	for _, e := range append(b.entries, rest.entries...) {
		d.lose(e.from)
	}
	d.mu.Unlock()
	d.report(why)
}

// handOn hands the lines of functions that have left d to where their next ones go, if
// that is the same server: policy refuses it to d's owner, and may allow it to the one
// that they have now. What goes nowhere is dropped, as nobody asks for d any more.
func (d *destination) handOn(b *messages) {
	d.mu.Lock()
	all := append(b.takeLeft(), d.queue.takeLeft()...)
	d.mu.Unlock()
	for _, l := range all {
		d.forwarder.queued.Add(-int64(len(l.text)))
		if heir := d.forwarder.heir(d, l.from.id); heir == nil || !heir.inherit(l) {
			d.mu.Lock()
			d.lose(l.from)
			d.mu.Unlock()
		}
	}
}

// leftLine is a message of a function that has left.
type leftLine struct {
	from *sender
	text []byte
}

// takeLeft takes those out of b. Precondition: the mu of their destination is held.
func (b *messages) takeLeft() (all []leftLine) {
	bytes, entries := b.bytes[:0], b.entries[:0]
	for _, e := range b.entries {
		text := b.bytes[e.start:e.end]
		if e.from.left {
			all = append(all, leftLine{e.from, slices.Clone(text)})
			b.size -= int64(len(text))
			continue
		}
		start := len(bytes)
		bytes = append(bytes, text...) // to where it is, or before
		entries = append(entries, entry{start, len(bytes), e.from})
	}
	b.bytes, b.entries = bytes, entries
	return all
}

// inherit puts l into the queue. It reports false if d has ended or has no room.
func (d *destination) inherit(l leftLine) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	q, size := &d.queue, int64(len(l.text))
	if d.ended || len(q.bytes)+len(l.text) > queueSize || d.forwarder.queued.Load()+size > queuesSize {
		return false
	}
	start := len(q.bytes)
	q.bytes = append(q.bytes, l.text...)
	q.entries = append(q.entries, entry{start, len(q.bytes), d.sender(l.from.id)})
	q.size += size
	d.forwarder.queued.Add(size)
	signal(d.wake)
	return true
}

// send sends b and takes off it what the server was given.
func (d *destination) send(ctx context.Context, b *messages) error {
	if err := d.connect(ctx); err != nil {
		return err
	}
	if d.datagrams {
		return d.sendDatagrams(ctx, b)
	}
	for off := b.entries[0].start; len(b.entries) > 0; {
		n, err := d.link.write(ctx, b.bytes[off:min(off+chunkSize, len(b.bytes))])
		off += n
		for len(b.entries) > 0 && b.entries[0].end <= off {
			b.entries = b.entries[1:]
		}
		if err != nil {
			d.hangUp()
			return err
		}
	}
	return nil
}

// sendDatagrams is send where each message is a datagram.
func (d *destination) sendDatagrams(ctx context.Context, b *messages) error {
	for len(b.entries) > 0 {
		e := b.entries[0]
		m := b.bytes[e.start:e.end]
		_, err := d.link.write(ctx, m)
		if errors.Is(err, syscall.ECONNREFUSED) && d.scheme == "udp" {
			_, err = d.link.write(ctx, m) // that was about the datagram before, which is lost
		}
		if err != nil {
			d.hangUp()
			return err
		}
		b.entries = b.entries[1:]
	}
	return nil
}

// connect sees to it that there is a connection.
func (d *destination) connect(ctx context.Context) error {
	if d.link != nil {
		select {
		case <-d.link.gone:
			if err := d.hangUp(); err != nil {
				return err
			}
		default:
			return nil
		}
	}
	conn, err := d.forwarder.dial(ctx, d.to)
	if err != nil {
		return err
	}
	d.link = newLink(ctx, conn, !d.datagrams)
	return nil
}

// hangUp closes the connection, if there is one, and returns why the server had
// ended it, if it had and not in peace.
func (d *destination) hangUp() error {
	if d.link == nil {
		return nil
	}
	err := d.link.close()
	d.link = nil
	return err
}

// report says what became of an attempt to send: in the daemon's log when the
// server cannot be reached and when it can again, and in the functions' what it
// means for their lines.
func (d *destination) report(err error) {
	log := d.forwarder.store.config.Log
	loud := err != nil && (d.warned.IsZero() || time.Since(d.warned) >= warnEvery)
	recovered := err == nil && d.down
	switch {
	case loud:
		if !d.down {
			log.Warn("syslog server cannot be reached: lines for it wait, and are dropped when there are too many", "url", d.to.url, "err", err)
		}
		d.warned, d.down = time.Now(), true
	case recovered:
		log.Info("syslog server takes lines again", "url", d.to.url)
		d.down = false
	}
	d.tell(err, loud, recovered)
}

// tell writes what is new into the logs of functions.
func (d *destination) tell(err error, loud, recovered bool) {
	for id, text := range d.news(err, loud, recovered) {
		d.forwarder.store.remark(id, text)
	}
}

// news returns what is to be said in the logs of functions, by their IDs.
func (d *destination) news(err error, loud, recovered bool) map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !loud && !recovered && !d.lost {
		return nil
	}
	why := "it did not keep up"
	if err != nil {
		why = err.Error()
	}
	news := make(map[string]string)
	for id, s := range d.senders {
		switch {
		case s.lost > 0:
			news[id] = fmt.Sprintf("… %s not sent to %s: %s", linesText(s.lost), d.to.url, why)
		case loud && !s.told:
			news[id] = fmt.Sprintf("… lines wait for %s: %s", d.to.url, why)
		}
		s.lost = 0
		s.told = (s.told || loud) && !recovered
	}
	d.lost = false
	return news
}

// link is a connection to a syslog server.
type link struct {
	conn   net.Conn
	forget func() bool   // the context of the connection
	gone   chan struct{} // closed when the server has ended it; nil: it has no way to say so
	err    error         // why, if not in peace; read it when gone is closed
}

// newLink returns a link over conn, which breaks when ctx ends. A stream is
// listened to: a server says nothing but that it has gone, and who does not hear
// that loses the lines that are sent next.
func newLink(ctx context.Context, conn net.Conn, stream bool) *link {
	l := &link{conn: conn}
	l.forget = context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	if stream {
		l.gone = make(chan struct{})
		go func() {
			defer close(l.gone)
			_, l.err = io.Copy(io.Discard, conn)
		}()
	}
	return l
}

// write writes p within writePatience.
func (l *link) write(ctx context.Context, p []byte) (int, error) {
	l.conn.SetWriteDeadline(time.Now().Add(writePatience))
	if err := ctx.Err(); err != nil { // after the deadline, which the end of ctx must not precede unseen
		return 0, err
	}
	return l.conn.Write(p)
}

// close closes l, and returns why the server had ended it, if not in peace.
func (l *link) close() (err error) {
	select {
	case <-l.gone:
		err = l.err
	default:
	}
	l.conn.Close()
	l.forget()
	if l.gone != nil {
		<-l.gone
	}
	return err
}

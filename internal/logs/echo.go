package logs

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
)

// echoSize is how many bytes of lines wait for the daemon's log at most; twice that
// while they are written.
const echoSize = 1 << 20

// echo makes lines of functions lines of the daemon's log. Neither a function nor its
// own log waits for that one: what there is no room for is counted, and the count said.
type echo struct {
	log  *slog.Logger
	wake chan struct{} // capacity 1: there are lines

	mu    sync.Mutex
	queue []message // guarded by mu, as all below; with texts of their own
	bytes int       // of the texts in queue
	lost  int       // lines dropped behind those in queue

	writing sync.Mutex // held by who empties the queue, so that lines keep their order
}

// send hands on a line.
func (e *echo) send(m message) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if size := len(m.text) + 100; e.bytes+size > echoSize || e.lost > 0 {
		e.lost++
	} else {
		m.text = bytes.Clone(m.text)
		e.queue = append(e.queue, m)
		e.bytes += size
	}
	signal(e.wake)
}

// run writes what comes until ctx ends.
func (e *echo) run(ctx context.Context) {
	for {
		select {
		case <-e.wake:
			e.flush()
		case <-ctx.Done():
			return
		}
	}
}

// flush writes what waits.
func (e *echo) flush() {
	e.writing.Lock()
	defer e.writing.Unlock()
	e.mu.Lock()
	queue, lost := e.queue, e.lost
	e.queue, e.bytes, e.lost = nil, 0, 0
	e.mu.Unlock()
	for _, m := range queue {
		e.log.LogAttrs(context.Background(), slog.LevelInfo, string(m.text), slog.Bool("user_log", true),
			slog.String("app_name", m.from.App), slog.String("path", m.from.Path), slog.String("image", m.from.Image),
			slog.String("call_id", m.call), slog.String("fn_id", m.funcID))
	}
	if lost > 0 {
		e.log.Warn("lines of functions are missing in this log, which did not keep up; their own logs have them", "lines", lost)
	}
}

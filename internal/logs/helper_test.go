package logs_test

import (
	"io"
	"log/slog"
	"sync"
)

// logTo returns a logger that writes to w, one line at a time.
func logTo(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(&locked{w: w}, nil)) }

type locked struct {
	mu sync.Mutex
	w  io.Writer // guarded by mu
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

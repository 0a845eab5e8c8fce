package main

import (
	"bytes"
	"io"
	"os"
	"sync"
	"time"

	"hob/client"
)

const (
	// aheadBytes is how much of standard input is read before the server asks for it.
	aheadBytes = 64 << 10

	// aheadTime is how long standard input may take to end for its length to be
	// told: there are functions that take no body without one.
	aheadTime = 50 * time.Millisecond
)

// payload makes a body of standard input. The server is told the length of a
// file, and of what ends soon; all else it gets as it comes. Standard input is
// never closed.
func payload(stdin io.Reader) io.Reader {
	if f, ok := stdin.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			if at, err := f.Seek(0, io.SeekCurrent); err == nil && info.Size() >= at {
				return client.Sized(io.LimitReader(f, info.Size()-at), info.Size()-at)
			}
		}
	}
	a := newAhead(stdin)
	if b, whole := a.wait(aheadTime); whole {
		return client.Sized(bytes.NewReader(b), int64(len(b)))
	}
	return io.NopCloser(a)
}

// ahead reads a stream ahead of whoever reads it. Its goroutine ends with the
// stream or with the process: a read of standard input cannot be broken off.
type ahead struct {
	full chan struct{} // closed when the stream has ended, or aheadBytes of it are there

	mu   sync.Mutex
	more sync.Cond // on mu: buf or err has changed
	buf  []byte    // guarded by mu, as err; at most aheadBytes
	err  error     // of the stream
}

func newAhead(r io.Reader) *ahead {
	a := &ahead{full: make(chan struct{})}
	a.more.L = &a.mu
	go a.read(r)
	return a
}

func (a *ahead) read(r io.Reader) {
	once := sync.OnceFunc(func() { close(a.full) })
	defer once()
	p := make([]byte, aheadBytes)
	for room := len(p); ; {
		n, err := r.Read(p[:room])
		a.mu.Lock()
		a.buf = append(a.buf, p[:n]...)
		a.err = err
		a.more.Broadcast()
		if err != nil {
			a.mu.Unlock()
			return
		}
		if len(a.buf) == aheadBytes {
			once()
		}
		for len(a.buf) == aheadBytes {
			a.more.Wait()
		}
		room = aheadBytes - len(a.buf)
		a.mu.Unlock()
	}
}

// wait returns the whole stream if it ends within this time and in aheadBytes.
func (a *ahead) wait(most time.Duration) (all []byte, whole bool) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-a.full:
	case <-timer.C:
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.buf, a.err == io.EOF
}

// Read implements io.Reader.
func (a *ahead) Read(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.buf) == 0 && a.err == nil {
		a.more.Wait()
	}
	if len(a.buf) == 0 {
		return 0, a.err
	}
	n := copy(p, a.buf)
	a.buf = a.buf[:copy(a.buf, a.buf[n:])]
	a.more.Broadcast()
	return n, nil
}

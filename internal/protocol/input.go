package protocol

import (
	"io"
	"sync"
)

// input is standard input of a process, written to without waiting for the
// process as long as it is behind by less than Ahead. So the body of a function
// that does not read is still read from the caller, and that the caller has left
// is seen.
type input struct {
	to   io.WriteCloser
	work *sync.WaitGroup // gets the goroutine that writes, if one is needed

	sent int // bytes given to write; used by its caller only

	mu      sync.Mutex
	moved   sync.Cond // on mu: one of the fields below has changed
	waiting []byte    // for the goroutine that writes; guarded by mu, as all below
	writing int       // bytes that it writes now
	started bool      // there is one
	ended   bool      // nothing comes any more
	broken  bool      // nobody reads
}

const (
	// Ahead is how much of a body is read before the function reads it.
	Ahead = 1 << 20

	// pipe is what goes into an empty pipe at once. A larger body needs a
	// goroutine that waits for the function.
	pipe = 64 << 10
)

func newInput(to io.WriteCloser, work *sync.WaitGroup) *input {
	i := &input{to: to, work: work}
	i.moved.L = &i.mu
	return i
}

// write takes p, which the caller may use again. Nobody wants it if it returns
// false.
func (i *input) write(p []byte) bool {
	if i.sent += len(p); i.sent <= pipe {
		_, err := i.to.Write(p)
		return err == nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.started {
		i.started = true
		i.work.Go(i.run)
	}
	for len(i.waiting)+i.writing >= Ahead && !i.broken {
		i.moved.Wait()
	}
	i.waiting = append(i.waiting, p...)
	i.moved.Broadcast()
	return !i.broken
}

// run writes what waits, and closes the input behind it.
func (i *input) run() {
	defer i.to.Close()
	var out []byte
	for {
		i.mu.Lock()
		i.writing = 0
		i.moved.Broadcast()
		for len(i.waiting) == 0 && !i.ended {
			i.moved.Wait()
		}
		if len(i.waiting) == 0 {
			i.mu.Unlock()
			return
		}
		out, i.waiting = i.waiting, out[:0]
		i.writing = len(out)
		i.mu.Unlock()
		if _, err := i.to.Write(out); err != nil {
			i.mu.Lock()
			i.broken, i.waiting = true, nil
			i.moved.Broadcast()
			i.mu.Unlock()
			return
		}
	}
}

// end closes the input when all of it is written. It does not wait for that.
func (i *input) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.ended = true
	if !i.started {
		i.to.Close()
	}
	i.moved.Broadcast()
}

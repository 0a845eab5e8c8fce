package protocol

import (
	"context"
	"fmt"
	"sync"
	"time"

	"hob/faas"
)

// HeaderStart is the header of an answer that tells what its call found on the
// node: a faas.Start.
const HeaderStart = "Hob-Start"

// reason is one of the errors of package faas in the words of one case.
type reason struct {
	is   error
	text string
}

func (r reason) Error() string { return r.text }
func (r reason) Unwrap() error { return r.is }

func fault(kind faas.Kind, is error, format string, args ...any) error {
	return faas.Errorf(kind, "%w", reason{is, fmt.Sprintf(format, args...)})
}

// Open makes a Conn that speaks fn.Format, which is a hot one, to p, which runs
// already. It returns when the function can take a call (those that listen: when
// something does; those that ask for calls: when they have asked), when p has ended, or with the cause when ctx ends. The Conn
// owns p: Close closes it. After an error p has been left to the caller.
//
// A Conn has one goroutine between its calls, which waits for the end of p. It
// ends with p, or by Close. One of format lambda has a few more, which end by
// Close.
func Open(ctx context.Context, fn faas.Function, p Process) (Conn, error) {
	switch fn.Format {
	case faas.FormatHTTP:
		return openHTTP(fn, p), nil
	case faas.FormatJSON, faas.FormatCloudEvent:
		return openObject(fn, p), nil
	case faas.FormatPort:
		c, err := openPort(ctx, fn, p)
		if err != nil {
			return nil, err
		}
		return c, nil
	case faas.FormatLambda:
		c, err := openLambda(ctx, fn, p)
		if err != nil {
			return nil, err
		}
		return c, nil
	case faas.FormatHTTPStream:
		c, err := openStream(ctx, fn, p)
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	return nil, faas.Errorf(faas.Unsupported, "format %s is not one of a hot function", fn.Format)
}

// life is a process of a hot function, and what is known of its end.
type life struct {
	Process
	memory faas.Bytes // limit, for the words of one who went over it

	stop  context.CancelFunc // ends the watch
	watch sync.WaitGroup

	ended   chan struct{} // closed when the two below are set
	exit    faas.Exit
	waitErr error // why the end cannot be known
}

// follow watches p until it has ended, and then calls wake, so that whoever waits
// for a byte of it sees the end. unfollow ends the watch.
func follow(p Process, memory faas.Bytes, wake func()) *life {
	ctx, stop := context.WithCancel(context.Background())
	l := &life{Process: p, memory: memory, stop: stop, ended: make(chan struct{})}
	l.watch.Go(func() {
		exit, err := p.Wait(ctx)
		if err != nil && ctx.Err() != nil {
			return
		}
		l.exit, l.waitErr = exit, err
		close(l.ended)
		wake()
	})
	return l
}

func (l *life) unfollow() {
	l.stop()
	l.watch.Wait()
}

// Close ends the process and the watch over it.
func (l *life) Close() error {
	l.unfollow()
	return l.Process.Close()
}

// over reports whether the process has ended.
func (l *life) over() bool {
	select {
	case <-l.ended:
		return true
	default:
		return false
	}
}

// mourning is how long the end of a process is waited for whose streams have
// ended: long enough for its last words.
const mourning = 500 * time.Millisecond

// overSoon is over, with a moment for an end that is on its way.
func (l *life) overSoon(ctx context.Context, moment time.Duration) bool {
	timer := time.NewTimer(moment)
	defer timer.Stop()
	select {
	case <-l.ended:
		return true
	case <-ctx.Done():
	case <-timer.C:
	}
	return l.over()
}

// died says how the process ended. Precondition: it is over.
func (l *life) died() error {
	if l.waitErr != nil {
		return l.waitErr
	}
	return fault(faas.FuncFailed, faas.ErrBroken, "%s", ending(l.Process, l.exit, l.memory))
}

// conclude fills in what is measured of a call that began then.
func (l *life) conclude(out *faas.Outcome, begin time.Time, err error) {
	out.Run = time.Since(begin)
	if out.Keep && l.over() {
		out.Keep = false
	}
	if err == nil {
		return
	}
	if l.over() && l.waitErr == nil {
		exit := l.exit
		out.Exit = &exit
	}
	out.PeakMemory, out.CPUTime = l.Usage()
}

// ending says how p ended and what it said last.
func ending(p Process, exit faas.Exit, memory faas.Bytes) string {
	var why string
	switch {
	case exit.OOM:
		why = fmt.Sprintf("killed: over its %v memory limit", memory)
	case exit.Signal != "":
		why = "killed by " + exit.Signal
	default:
		why = fmt.Sprintf("exit code %d", exit.Code)
	}
	if words := p.LastWords(); words != "" {
		why += ": " + words
	}
	return why
}

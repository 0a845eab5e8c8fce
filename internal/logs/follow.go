package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math"
	"slices"
	"time"

	"hob/faas"
)

// Selection says which lines are wanted.
type Selection struct {
	Function string // ID
	Call     string // ID; only lines of this call; "": of all
	Tail     int    // begin with the last so many of these lines; below 0: with the first that is kept
	Follow   bool   // go on with lines that are yet to come
	Only     Part   // "": all
}

// Part is a part of a function's log.
type Part string

// Parts.
const (
	Lines  Part = "lines"  // what the function wrote and what hob notes about that; no events
	Events Part = "events" // steps in the life of its asynchronous calls, and nothing else: also no note of what was lost
)

// Follow yields lines in the order in which they were written. Everything that
// was written before Follow is there, none twice, and with sel.Follow everything
// that is written later until ctx ends: there is one cursor, which reads until
// it has caught up, waits to be woken, and reads again. Where lines were removed
// before a slow reader came to them, a line of stream "hob" says how many.
//
// It ends with the cause of ctx as an error when ctx ends, as EndFollowers says, and without one when
// the function is forgotten. A function that has no lines yet is no error. Lines that
// are older than Config.MaxAge are not there, also where their segment still is.
func (s *Store) Follow(ctx context.Context, sel Selection) iter.Seq2[faas.LogLine, error] {
	return func(yield func(faas.LogLine, error) bool) {
		f, err := s.function(sel.Function)
		if err != nil {
			yield(faas.LogLine{}, err)
			return
		}
		f.flush()
		c := cursor{function: f, call: sel.Call, only: sel.Only}
		if s.config.MaxAge > 0 {
			c.since = time.Now().Add(-s.config.MaxAge).UnixNano()
		}
		end, err := c.begin(sel.Tail)
		if sel.Follow {
			end = math.MaxUint64
		}
		for err == nil {
			more := f.more() // before reading: what comes while we read wakes us
			ending := isClosed(s.ending)
			f.flush()
			var left bool
			if left, err = c.read(ctx, end, yield); left || err != nil || !sel.Follow || more == nil {
				break
			}
			if ending {
				err = faas.Errorf(faas.Busy, "this node is shutting down")
				break
			}
			err = wait(ctx, more, s.ending)
		}
		if err != nil {
			yield(faas.LogLine{}, err)
		}
	}
}

// wait waits until more closes and then flushDelay for company, so that it costs
// followers no more to have many lines than to have a few. It waits no longer than until
// ending closes.
func wait(ctx context.Context, more, ending <-chan struct{}) error {
	select {
	case <-more:
	case <-ending:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	delay := time.NewTimer(flushDelay)
	defer delay.Stop()
	select {
	case <-delay.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// cursor is a place in a function's log.
type cursor struct {
	function *function
	call     string // wanted; "": all
	only     Part   // wanted; "": all
	since    int64  // wanted; nanoseconds since 1970, older entries are not; 0: all

	line uint64 // number of the next line
	base uint64 // of the segment that off is in
	off  int64  // of the frame of line; 0: not known, line is the first in its segment
	at   int64  // when the line before was written, nanoseconds since 1970; 0: not known
}

// wants reports whether c is to yield an entry.
func (c *cursor) wants(fr frame) bool {
	if fr.at < c.since || fr.kind != kindLine && fr.kind != kindEvent || c.only == Lines && fr.kind != kindLine || c.only == Events && fr.kind != kindEvent {
		return false
	}
	stream, call, text, ok := parseLine(fr.rest)
	if ok && fr.kind == kindEvent {
		_, ok = parseEvent(stream, call, text)
	}
	return ok && (c.call == "" || string(call) == c.call)
}

// begin puts c before the last tail lines that it wants, and returns the number
// of the line after the last that is there now.
func (c *cursor) begin(tail int) (end uint64, err error) {
	segments, end, err := c.function.series.state()
	if err != nil {
		return 0, fmt.Errorf("read the log: %w", err)
	}
	c.line = end
	if tail < 0 {
		if len(segments) > 0 {
			c.line, c.base = segments[0].base, segments[0].base
		}
		return end, nil
	}
	after := end // number of the first line behind g
	for _, g := range slices.Backward(segments) {
		if tail == 0 {
			break
		}
		found, err := c.find(g, after, tail)
		if errors.Is(err, fs.ErrNotExist) {
			break // it has been dropped meanwhile, with all before it
		}
		if err != nil {
			return 0, fmt.Errorf("read the log: %w", err)
		}
		if len(found) >= tail {
			at := found[len(found)-tail]
			c.line, c.base, c.off = at.line, g.base, at.off
			break
		}
		tail -= len(found)
		c.line, c.base, c.off = g.base, g.base, 0
		after = g.base
	}
	return end, nil
}

type place struct {
	line uint64
	off  int64
}

// find returns the places of the last tail or more lines that c wants in a
// segment. after is the number of the first line behind it: lines are counted
// from there, as those that are damaged cannot be.
func (c *cursor) find(g segment, after uint64, tail int) (found []place, err error) {
	if c.call != "" && !g.mayHave(c.call) {
		return nil, nil
	}
	f, err := c.function.series.open(g)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := openFrames(f, g.size)
	n := uint64(0)
	for err == nil {
		off := r.off
		var fr frame
		if fr, err = r.next(); err != nil || fr.lost > 0 || fr.kind == kindSeal {
			continue
		}
		if c.wants(fr) {
			found = append(found, place{n, off})
			if over := len(found) - tail; over > tail+1000 {
				found = append(found[:0], found[over:]...)
			}
		}
		n++
	}
	if !errors.Is(err, io.EOF) {
		return nil, err
	}
	for i := range found {
		found[i].line += after - n
	}
	return found, nil
}

// read yields lines from c on until it has caught up with the writers or with
// end. left says that the reader has had enough.
func (c *cursor) read(ctx context.Context, end uint64, yield func(faas.LogLine, error) bool) (left bool, err error) {
	for c.line < end {
		segments, next, err := c.function.series.state()
		if err != nil {
			return false, fmt.Errorf("read the log: %w", err)
		}
		i := slices.IndexFunc(segments, func(g segment) bool {
			return g.base == c.base && c.off > 0 || g.base >= c.line
		})
		if i < 0 { // nothing is there, or nothing is left
			c.off = 0
			return !c.skip(next, yield), nil
		}
		g, after := segments[i], next
		if i+1 < len(segments) {
			after = segments[i+1].base
		}
		if c.base != g.base || c.off == 0 {
			if !c.skip(min(g.base, end), yield) {
				return true, nil
			}
			if c.line >= end {
				break
			}
			c.base, c.off = g.base, 0
		}
		if c.call != "" && !g.mayHave(c.call) {
			c.line, c.off = after, g.size
		} else {
			left, err = c.readSegment(ctx, g, end, yield)
		}
		if errors.Is(err, fs.ErrNotExist) { // dropped meanwhile, or removed by somebody else
			if err := c.function.series.remove(g.base, g.size); err != nil {
				return false, fmt.Errorf("read the log: %w", err)
			}
			c.off = 0
			continue
		}
		switch {
		case left || err != nil:
			return left, err
		case c.line >= end && c.off < g.size:
			return false, nil
		case !c.skip(min(after, end), yield): // what is missing was damaged
			return true, nil
		case i == len(segments)-1:
			return false, nil
		}
		c.line, c.base, c.off = after, after, 0
	}
	return false, nil
}

// skip moves c on to a line, and says so if there were others before it.
func (c *cursor) skip(to uint64, yield func(faas.LogLine, error) bool) bool {
	if to <= c.line {
		return true
	}
	n := int(to - c.line)
	c.line = to
	return c.note(fmt.Sprintf("… %s lost: removed, or damaged on the disk, before they could be read", linesText(n)), yield)
}

// note yields a line about lines that are not there.
func (c *cursor) note(text string, yield func(faas.LogLine, error) bool) bool {
	if c.only == Events {
		return true
	}
	at := time.Unix(0, c.at)
	if c.at == 0 {
		at = time.Now()
	}
	return yield(faas.LogLine{Time: at, Call: c.call, Stream: "hob", Text: text}, nil)
}

// readSegment yields the lines of one segment from c on, up to its end or end.
func (c *cursor) readSegment(ctx context.Context, g segment, end uint64, yield func(faas.LogLine, error) bool) (left bool, err error) {
	f, err := c.function.series.open(g)
	if err != nil {
		return false, fmt.Errorf("read the log: %w", err)
	}
	defer f.Close()
	r := &frameReader{from: f, off: c.off, end: g.size}
	if c.off == 0 {
		if r, err = openFrames(f, g.size); err != nil {
			return false, fmt.Errorf("read the log: %w", err)
		}
	}
	for c.line < end {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		fr, err := r.next()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("read the log: %w", err)
		}
		c.off = r.off
		switch {
		case fr.lost > 0:
			if !c.note(string(damageText(fr.lost)), yield) {
				return true, nil
			}
			continue
		case fr.kind == kindSeal:
			continue
		}
		c.line, c.at = c.line+1, fr.at
		if c.wants(fr) && !yield(logLine(fr), nil) {
			return true, nil
		}
	}
	return false, nil
}

package logs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"hob/faas"
)

const (
	// maxPending is how many records may wait for the disk; more are dropped.
	maxPending = 4096
	// spareRecords is for how many records room is kept while there are none.
	spareRecords = 512
	// journalBatch is how many bytes of records are written at once.
	journalBatch = 256 << 10
	// defaultCalls is the limit of a CallFilter without one.
	defaultCalls = 100
)

// journal is the records of finished calls: one series, and the records on their
// way there.
type journal struct {
	store  *Store
	series *series
	log    *slog.Logger
	wake   chan struct{} // capacity 1: there are records
	hurry  chan struct{} // capacity 1: there are many

	flushing sync.Mutex // held by who takes records to the disk; before mu

	mu          sync.Mutex
	pending     []pendingRecord   // guarded by mu, as all below; in the order in which they came
	spare       []pendingRecord   // empty: the one before, to be used again
	dropped     int               // records for which there was no room, and the log does not say so yet
	meters      map[string]*meter // by the ID of the function
	sweepMeters int               // how many of them are too many
	damaged     map[uint64]bool   // segments of which the log says that they are, by their base
	closed      bool
}

// pendingRecord is a record on its way to the disk.
type pendingRecord struct {
	call  faas.Call // without its Exit, which is the caller's
	exit  faas.Exit
	ended bool // there is an exit
}

func newJournal(s *Store) *journal {
	return &journal{
		store: s,
		series: &series{
			dir:         filepath.Join(s.config.Dir, "journal"),
			segmentSize: sizeOfSegments(s.config.JournalBytes),
			limit:       int64(s.config.JournalBytes),
			age:         s.config.JournalAge,
			id:          recordID,
			exact:       true,
			log:         s.config.Log,
		},
		log:   s.config.Log,
		wake:  make(chan struct{}, 1),
		hurry: make(chan struct{}, 1),
	}
}

// Record keeps the record of a finished call. It never waits and touches no
// disk: when 4,096 records wait for the disk already, this one is dropped, and
// the daemon's log says how many were. Calls and Call see it at once.
func (s *Store) Record(call faas.Call) {
	j := s.journal
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return
	}
	j.meter(call)
	if len(j.pending) >= maxPending {
		j.dropped++
		return
	}
	p := pendingRecord{call: call, ended: call.Outcome.Exit != nil}
	if p.ended {
		p.exit = *call.Outcome.Exit
	}
	p.call.Outcome.Exit = nil
	switch j.pending = append(j.pending, p); len(j.pending) {
	case 1:
		signal(j.wake)
	case maxPending / 2:
		signal(j.hurry)
	}
}

// run is the part of Run that writes records.
func (j *journal) run(ctx context.Context) {
	delay := time.NewTimer(0)
	defer delay.Stop()
	for ctx.Err() == nil {
		select {
		case <-j.wake:
		case <-ctx.Done():
		}
		delay.Reset(flushDelay)
		select {
		case <-delay.C:
		case <-j.hurry:
		case <-ctx.Done():
		}
		j.flush()
	}
}

// close makes Record drop what comes later.
func (j *journal) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
}

func (j *journal) take() (pending []pendingRecord, dropped int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	pending, dropped = j.pending, j.dropped
	j.pending, j.spare, j.dropped = j.spare, nil, 0
	return pending, dropped
}

// giveBack lets the room of records that have been written be used again, unless
// it is much.
func (j *journal) giveBack(written []pendingRecord) {
	if cap(written) > spareRecords {
		return
	}
	clear(written)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.spare = written[:0]
}

// flush brings the records that wait to the disk. Those that it does not take
// are dropped and counted.
func (j *journal) flush() {
	j.flushing.Lock()
	defer j.flushing.Unlock()
	pending, dropped := j.take()
	if dropped > 0 {
		j.log.Warn("records of calls dropped: the disk did not keep up", "dropped", dropped)
	}
	if len(pending) == 0 {
		j.giveBack(pending)
		return
	}
	b := batch{frames: j.store.takeBuffer()}
	defer func() { j.store.giveBuffer(b.frames) }()
	write := func() {
		if b.count > 0 {
			j.store.health.report(j.series.append(b, time.Now()), int(b.count))
		}
		b = batch{frames: b.frames[:0]}
	}
	now := time.Now()
	for i := range pending {
		p := &pending[i]
		if p.ended {
			p.call.Outcome.Exit = &p.exit
		}
		b.frames = appendRecord(b.frames, now, &p.call)
		b.count++
		b.ids.addID(callOf(p.call.ID))
		if len(b.frames) >= journalBatch {
			write()
		}
	}
	write()
	j.giveBack(pending)
}

// CallFilter says which records are wanted. An empty field asks for nothing.
type CallFilter struct {
	App      string // name
	Function string // name
	State    faas.CallState
	After    string // only calls older than the one with this ID: what the page before called next
	Limit    int    // at most so many; 0: 100
}

// Calls returns the records that fit, the newest call first, and the ID to
// continue after if there are more. Of two records of one call the later counts.
// It sees every record that Record has taken before.
func (s *Store) Calls(ctx context.Context, filter CallFilter) (calls []faas.Call, next string, err error) {
	if filter.Limit <= 0 {
		filter.Limit = defaultCalls
	}
	s.journal.flush()
	segments, _, err := s.journal.series.state()
	if err != nil {
		return nil, "", fmt.Errorf("read the journal: %w", err)
	}
	// From the segment with the newest call on: calls end in another order than
	// they begin in, so segments overlap.
	slices.Reverse(segments)
	slices.SortStableFunc(segments, func(a, b segment) int { return strings.Compare(b.last, a.last) })
	want := filter.Limit + 1 // one more shows that there are more
	var found []match
	for _, g := range segments {
		if len(found) == want && found[want-1].id > g.last {
			break // neither this nor a later segment has anything newer
		}
		if filter.After != "" && g.first >= filter.After {
			continue
		}
		some, err := s.journal.matches(ctx, g, filter, want)
		if err != nil {
			return nil, "", fmt.Errorf("read the journal: %w", err)
		}
		found = newest(append(found, some...), want)
	}
	if len(found) == want {
		found = found[:filter.Limit]
		next = found[filter.Limit-1].id
	}
	for _, m := range found {
		k, _ := parseKeys(m.rest)
		c, err := k.call()
		if err != nil {
			return nil, "", fmt.Errorf("read the journal: %w", err)
		}
		calls = append(calls, c)
	}
	return calls, next, nil
}

// match is a record that was found.
type match struct {
	id   string
	base uint64 // of its segment; with off, which of two records is the later
	off  int64
	rest []byte // of its frame
}

// newest sorts matches, the newest call first, leaves of each call the latest
// record, and of those the first limit.
func newest(all []match, limit int) []match {
	slices.SortFunc(all, func(a, b match) int {
		return cmp.Or(strings.Compare(b.id, a.id), cmp.Compare(b.base, a.base), cmp.Compare(b.off, a.off))
	})
	all = slices.CompactFunc(all, func(a, b match) bool { return a.id == b.id })
	return all[:min(len(all), limit)]
}

// matches returns the records of a segment that fit, at most the newest limit,
// in no order.
func (j *journal) matches(ctx context.Context, g segment, filter CallFilter, limit int) (found []match, err error) {
	err = j.each(ctx, g, func(k recordKeys, off int64, rest []byte) bool {
		if filter.After != "" && string(k.id) >= filter.After ||
			filter.App != "" && string(k.app) != filter.App ||
			filter.Function != "" && string(k.function) != filter.Function ||
			filter.State != "" && string(k.state) != string(filter.State) {
			return true
		}
		found = append(found, match{id: string(k.id), base: g.base, off: off, rest: bytes.Clone(rest)})
		if len(found) >= 2*limit+1024 {
			found = newest(found, limit)
		}
		return true
	})
	return newest(found, limit), err
}

// each calls do for every record of a segment, until it returns false. A segment
// that has been dropped has none; what is damaged is passed over.
func (j *journal) each(ctx context.Context, g segment, do func(k recordKeys, off int64, rest []byte) bool) error {
	f, err := j.series.open(g)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := openFrames(f, g.size)
	for n := 0; err == nil; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		off := r.off
		var fr frame
		if fr, err = r.next(); fr.lost > 0 {
			j.damage(g, fr.lost)
		}
		if err != nil || fr.kind != kindRecord {
			continue
		}
		if k, ok := parseKeys(fr.rest); ok && !do(k, off, fr.rest) {
			return nil
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// damage says in the daemon's log that records are lost, once for each segment.
func (j *journal) damage(g segment, bytes int64) {
	j.mu.Lock()
	known := j.damaged[g.base]
	if j.damaged == nil {
		j.damaged = make(map[uint64]bool)
	}
	j.damaged[g.base] = true
	j.mu.Unlock()
	if !known {
		j.log.Warn("the journal is damaged on the disk: records of calls are lost", "file", j.series.file(g.base), "bytes", bytes)
	}
}

// Call returns the record of a call; NotFound if there is none, or none any more.
func (s *Store) Call(id string) (faas.Call, error) {
	s.journal.flush()
	segments, _, err := s.journal.series.state()
	if err != nil {
		return faas.Call{}, fmt.Errorf("read the journal: %w", err)
	}
	for _, g := range slices.Backward(segments) {
		if id < g.first || id > g.last {
			continue
		}
		var rest []byte
		if err := s.journal.each(context.Background(), g, func(k recordKeys, _ int64, frame []byte) bool {
			if string(k.id) == id {
				rest = bytes.Clone(frame) // a later record of the same call may follow
			}
			return true
		}); err != nil {
			return faas.Call{}, fmt.Errorf("read the journal: %w", err)
		}
		if rest != nil {
			k, _ := parseKeys(rest)
			return k.call()
		}
	}
	return faas.Call{}, faas.Errorf(faas.NotFound, "no call %q: it never was, or its record is no longer kept", id)
}

package sqlite

import (
	"cmp"
	"context"
	"slices"

	"hob/faas"
)

// lines is the queued calls of some functions, seen as one line. All it asks the
// database are ranges of the index call_line, each of one function and one
// priority, so calls that are not due cost nothing to pass.
type lines struct {
	d     *db
	books []lined
}

type lined struct {
	n      int64
	counts counts // so that what is empty is not asked for
}

// A place is where a queued call is in line.
type place struct {
	priority int
	due, seq int64
}

func (p place) compare(o place) int {
	return cmp.Or(cmp.Compare(o.priority, p.priority), cmp.Compare(p.due, o.due), cmp.Compare(p.seq, o.seq))
}

// compareLater is the order of those that are not due.
func (p place) compareLater(o place) int {
	return cmp.Or(cmp.Compare(p.due, o.due), cmp.Compare(o.priority, p.priority), cmp.Compare(p.seq, o.seq))
}

func (s *Store) lines(d *db, books []*book, count func(*book) counts) lines {
	l := lines{d: d}
	for _, b := range books {
		if c := count(b); c.states[queued] > 0 {
			l.books = append(l.books, lined{b.n, c})
		}
	}
	return l
}

const linePlaces = "SELECT due, seq FROM call INDEXED BY call_line WHERE state = 0 AND called = ? AND priority = ? AND "

// due returns the first places of calls that are due, at most limit.
func (l lines) due(now int64, limit int) (places []place, err error) {
	for priority := faas.MaxPriority; priority >= 0 && len(places) < limit; priority-- {
		from := len(places)
		for _, b := range l.books {
			if b.counts.line[priority] <= 0 {
				continue
			}
			if places, err = l.span(places, b.n, priority, "due <= ?", now, limit-from); err != nil {
				return nil, err
			}
		}
		slices.SortFunc(places[from:], place.compare)
		places = places[:min(limit, len(places))]
	}
	return places, nil
}

// later returns the first places of calls that are not due, in the order in
// which they become due, at most limit.
func (l lines) later(now int64, limit int) (places []place, err error) {
	for priority := range faas.MaxPriority + 1 {
		for _, b := range l.books {
			if limit <= 0 || b.counts.line[priority] <= 0 {
				continue
			}
			if places, err = l.span(places, b.n, priority, "due > ?", now, limit); err != nil {
				return nil, err
			}
		}
	}
	slices.SortFunc(places, place.compareLater)
	return places[:min(max(limit, 0), len(places))], nil
}

// span appends the first places of one function and priority.
func (l lines) span(places []place, n int64, priority int, bounds string, now int64, limit int) ([]place, error) {
	err := l.d.each(linePlaces+bounds+" ORDER BY due, seq LIMIT ?", func(r row) error {
		places = append(places, place{priority, r.num(0), r.num(1)})
		return nil
	}, n, priority, now, limit)
	return places, err
}

// nextDue returns when the next call becomes due that is not; 0 if there is none.
func (l lines) nextDue(now int64) (int64, error) {
	places, err := l.later(now, 1)
	if err != nil || len(places) == 0 {
		return 0, err
	}
	return places[0].due, nil
}

// Line implements store.Calls.
func (s *Store) Line(ctx context.Context, functions []string, limit int) (calls []faas.Call, err error) {
	s.counted(ctx)
	err = s.snapshot(ctx, func(d *db) error {
		now := s.clock.now()
		l := s.lines(d, s.books.of(functions...), s.books.committed)
		places, err := l.due(now, limit)
		if err != nil {
			return err
		}
		later, err := l.later(now, limit-len(places))
		if err != nil {
			return err
		}
		for _, p := range append(places, later...) {
			c, err := s.bySeq(d, p.seq)
			if err != nil {
				return err
			}
			calls = append(calls, c.call)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return calls, nil
}

// countedPlaces is up to where a place in line is counted.
const countedPlaces = 1000

// Place implements store.Calls.
func (s *Store) Place(ctx context.Context, id string, functions []string) (number int, about bool, err error) {
	err = s.snapshot(ctx, func(d *db) error {
		r, err := d.one(callByID, id)
		if err != nil || r == nil {
			return err
		}
		c, err := s.readCall(r)
		if err != nil || c.call.State != faas.CallQueued {
			return err
		}
		now := s.clock.now()
		l := s.lines(d, s.books.of(functions...), s.books.committed)
		me := place{c.call.Priority, c.due, c.seq}
		ahead, err := l.ahead(me, now)
		if number, about = ahead+1, false; err != nil || ahead < countedPlaces {
			return err
		}
		estimate, err := l.estimate(me)
		number, about = max(countedPlaces, estimate)+1, true
		return err
	})
	return number, about, err
}

// ahead counts the calls before the place p, up to countedPlaces.
func (l lines) ahead(p place, now int64) (n int, err error) {
	count := func(priority int, bounds string, args ...any) {
		for _, b := range l.books {
			if err != nil || n >= countedPlaces || b.counts.line[priority] <= 0 {
				continue
			}
			var r row
			r, err = l.d.one("SELECT count(*) FROM ("+linePlaces+bounds+" LIMIT ?)", append(append([]any{b.n, priority}, args...), countedPlaces-n)...)
			if err == nil {
				n += int(r.num(0))
			}
		}
	}
	late := p.due > now // and all that are due are before it
	for priority := faas.MaxPriority; priority >= 0; priority-- {
		switch {
		case late && priority > p.priority:
			count(priority, "due <= ?", p.due)
		case late && priority < p.priority:
			count(priority, "due < ?", p.due)
		case priority > p.priority:
			count(priority, "due <= ?", now)
		case priority == p.priority:
			count(priority, "(due, seq) < (?, ?)", p.due, p.seq)
		}
	}
	return n, err
}

// estimate guesses how many calls are before p: all of a higher priority, and of
// its own as many as its number lies between the first and the last of them.
func (l lines) estimate(p place) (n int, err error) {
	for _, b := range l.books {
		for priority := p.priority + 1; priority <= faas.MaxPriority; priority++ {
			n += b.counts.line[priority]
		}
		own := b.counts.line[p.priority]
		if own <= 0 {
			continue
		}
		first, err := l.d.one(linePlaces+"due >= ? ORDER BY due, seq LIMIT 1", b.n, p.priority, 0)
		if err != nil {
			return 0, err
		}
		last, err := l.d.one(linePlaces+"due >= ? ORDER BY due DESC, seq DESC LIMIT 1", b.n, p.priority, 0)
		if err != nil {
			return 0, err
		}
		if first == nil || last == nil {
			continue
		}
		from, to := first.num(0), last.num(0)
		switch {
		case p.due >= to:
			n += own
		case p.due > from:
			n += int(float64(own) * float64(p.due-from) / float64(to-from))
		}
	}
	return n, nil
}

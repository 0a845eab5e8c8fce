package sqlite

import "time"

// A clock is the engine's own. It begins with the machine's, or with the newest
// time that the database has seen if that is later, and goes on with the time
// that passes: setting the machine's clock back delays nothing, also between two
// runs. Its times are microseconds since 1970.
type clock struct {
	base    time.Time // with a monotonic reading
	ahead   int64     // microseconds to be added to it
	written int64     // the newest time in the database; of whoever has the turn
}

// newClock returns a clock that is not before newest.
func newClock(newest int64) clock {
	base := time.Now()
	return clock{base: base, ahead: max(0, newest-base.UnixMicro()), written: newest}
}

func (c *clock) now() int64 {
	return c.base.UnixMicro() + time.Since(c.base).Microseconds() + c.ahead
}

// Now implements store.Calls.
func (s *Store) Now() time.Time { return at(s.clock.now()) }

// stampEvery is how far the time in the database may be behind, in microseconds.
const stampEvery = 1e6

// stamp writes the time into the database, now and then.
// Precondition: a transaction is open.
func (s *Store) stamp() error {
	now := s.clock.now()
	if now-s.clock.written < stampEvery {
		return nil
	}
	_, err := s.w.exec("UPDATE clock SET newest = ?", now)
	if err == nil {
		s.clock.written = now // a rollback makes it a little older: no harm
	}
	return err
}

// micros is a time as the database knows it, of which at is the inverse.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// at is a time as callers know it; 0 is the zero time.
func at(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}

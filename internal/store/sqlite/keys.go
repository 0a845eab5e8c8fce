package sqlite

import (
	"context"

	"hob/faas"
	"hob/internal/store"
)

// known returns the call that a key stands for. A key that is too old is
// forgotten.
func (s *Store) known(now int64, k store.Key) (call faas.Call, known bool, err error) {
	r, err := s.w.one("SELECT call, hash, made FROM key WHERE function = ? AND caller = ? AND key = ?", k.Function, k.Caller, k.Key)
	if err != nil || r == nil {
		return faas.Call{}, false, err
	}
	seq := r.num(0)
	if age := s.limits.KeyAge; age > 0 && r.num(2) < now-age.Microseconds() {
		return faas.Call{}, false, s.forgetKey(seq)
	}
	if r.text(1) != k.Hash {
		return faas.Call{}, false, store.KeyReused(k.Key)
	}
	found, err := s.bySeq(s.w, seq)
	return found.call, err == nil, err
}

// forgetKey removes the key of a call. It does not keep its result any more.
func (s *Store) forgetKey(seq int64) error {
	clear(s.running) // where it says keyed
	for _, query := range []string{
		"DELETE FROM key WHERE call = ?",
		"UPDATE kept SET keyed = 0 WHERE n = (SELECT kept FROM call WHERE seq = ?)",
		"UPDATE call SET keyed = 0 WHERE seq = ?",
	} {
		if _, err := s.w.exec(query, seq); err != nil {
			return err
		}
	}
	return nil
}

// expireKeys removes all keys that are too old.
func (s *Store) expireKeys(now int64) error {
	for {
		if more, err := s.expireSome(now); err != nil || !more {
			return err
		}
	}
}

// expireSome removes a portion of the keys that are too old, and reports whether
// there may be more.
func (s *Store) expireSome(now int64) (more bool, err error) {
	if s.limits.KeyAge <= 0 {
		return false, nil
	}
	var calls []int64
	if err := s.w.each("SELECT call FROM key WHERE made < ? ORDER BY made LIMIT ?", func(r row) error {
		calls = append(calls, r.num(0))
		return nil
	}, now-s.limits.KeyAge.Microseconds(), portion); err != nil {
		return false, err
	}
	for _, seq := range calls {
		if err := s.forgetKey(seq); err != nil {
			return false, err
		}
	}
	return len(calls) == portion, nil
}

func (s *Store) sweepKeys(ctx context.Context) error {
	for more := s.limits.KeyAge > 0; more; {
		if err := s.write(ctx, 0, func() (_ []store.Change, err error) {
			more, err = s.expireSome(s.clock.now())
			return nil, err
		}); err != nil {
			return err
		}
	}
	return nil
}

package sqlite

import (
	"context"
	"time"

	"hob/faas"
	"hob/internal/store"
)

// insertDeliveries adds the deliveries of a call that ended.
func (s *Store) insertDeliveries(seq int64, call faas.Call, all []store.Delivery, now int64) error {
	for _, d := range all {
		_, err := s.w.exec("INSERT INTO delivery (id, call, target, tries, since, due) VALUES (?, ?, ?, 0, ?, ?)", d.ID, seq, d.Target, micros(call.Finished), now)
		if err != nil {
			return err
		}
	}
	return nil
}

// Deliveries implements store.Calls.
func (s *Store) Deliveries(ctx context.Context, limit int) (due []store.Delivery, next time.Duration, err error) {
	err = s.snapshot(ctx, func(d *db) error {
		now := s.clock.now()
		err := d.each("SELECT delivery.id, call.id, target, tries, since FROM delivery JOIN call ON seq = call WHERE delivery.due <= ? ORDER BY since, delivery.rowid LIMIT ?", func(r row) error {
			due = append(due, store.Delivery{ID: r.text(0), Call: r.text(1), Target: r.text(2), Tries: int(r.num(3)), Since: at(r.num(4))})
			return nil
		}, now, limit)
		if err != nil {
			return err
		}
		r, err := d.one("SELECT due FROM delivery WHERE due > ? ORDER BY due LIMIT 1", now)
		if r != nil {
			next = time.Duration(r.num(0)-now) * time.Microsecond
		}
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return due, next, nil
}

// Delivered implements store.Calls.
func (s *Store) Delivered(ctx context.Context, id string, done bool, retry time.Duration, outcome string) error {
	return s.write(ctx, 0, func() ([]store.Change, error) {
		r, err := s.w.one("SELECT call FROM delivery WHERE id = ?", id)
		if err != nil {
			return nil, err
		}
		if r == nil {
			return nil, store.NoDelivery(id)
		}
		c, err := s.bySeq(s.w, r.num(0))
		if err != nil {
			return nil, err
		}
		if done {
			_, err = s.w.exec("DELETE FROM delivery WHERE id = ?", id)
		} else {
			_, err = s.w.exec("UPDATE delivery SET tries = tries + 1, due = ? WHERE id = ?", s.clock.now()+max(0, retry.Microseconds()), id)
		}
		if err != nil {
			return nil, err
		}
		c.call.Delivery = store.Text(outcome)
		record, err := recordOf(c.call)
		if err != nil {
			return nil, err
		}
		_, err = s.w.exec("UPDATE call SET record = ? WHERE seq = ?", record, c.seq)
		return nil, err
	})
}

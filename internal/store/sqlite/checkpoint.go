package sqlite

import (
	"sync"
)

// checkpoints move the log into the database in the background. Where SQLite
// does it by itself, the writer that makes the log too long pays for all of it,
// with two syncs, and everybody behind it waits.
type checkpoints struct {
	logged int64 // bytes written since the last one, about; of whoever has the turn
	wanted chan struct{}
	wg     sync.WaitGroup
	quit   chan struct{}
	d      *db
}

const (
	checkpointEvery = 4 << 20 // bytes
	logPerWrite     = 4 << 10 // what a change writes beside its body, about

	// While writers go on, a checkpoint never reaches the end of the log, and the
	// log never begins anew. From so many pages on the writers wait for the last
	// part of it, of which there is little left then.
	longLog = 8192
)

// start begins the work.
func (c *checkpoints) start(s *Store) {
	c.d = dial(s.source("wal_autocheckpoint(0)"))
	c.wanted, c.quit = make(chan struct{}, 1), make(chan struct{})
	c.wg.Go(func() {
		for {
			select {
			case <-c.wanted:
				c.run(s)
			case <-c.quit:
				return
			}
		}
	})
}

// stop ends the work and waits for it.
func (c *checkpoints) stop() error {
	if c.d == nil {
		return nil
	}
	close(c.quit)
	c.wg.Wait()
	return c.d.close()
}

// note counts what a batch wrote.
// Precondition: the caller has the turn.
func (c *checkpoints) note(batch []*write) {
	for _, w := range batch {
		c.logged += int64(logPerWrite + w.size)
	}
	if c.logged < checkpointEvery {
		return
	}
	select {
	case c.wanted <- struct{}{}:
		c.logged = 0
	default:
	}
}

// run makes one checkpoint. What it cannot do now, the next one does.
func (c *checkpoints) run(s *Store) {
	if pages, err := c.passive(); err != nil || pages < longLog {
		return
	}
	select {
	case s.turn <- struct{}{}:
		_, _ = c.passive()
		<-s.turn
	case <-c.quit:
	}
}

// passive moves what is in the log now, and returns how long the log is, in pages.
func (c *checkpoints) passive() (pages int64, err error) {
	r, err := c.d.one("PRAGMA wal_checkpoint(PASSIVE)")
	if err != nil || r == nil {
		return 0, err
	}
	return r.num(1), nil
}

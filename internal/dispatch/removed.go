package dispatch

import "context"

// Forget cancels the queued calls of a function that is no more, in the background.
func (d *Dispatcher) Forget(function string) {
	d.mu.Lock()
	d.forgotten = append(d.forgotten, function)
	d.mu.Unlock()
	signal(d.removed)
}

// giveUp cancels what waits for a function that is no more.
func (d *Dispatcher) giveUp(function string) {
	d.mu.Lock()
	d.line(function).more = false
	d.mu.Unlock()
	d.Forget(function)
}

// cancelRemoved cancels the queued calls of functions that are no more.
func (d *Dispatcher) cancelRemoved(ctx context.Context) {
	for {
		d.mu.Lock()
		forgotten := d.forgotten
		d.forgotten = nil
		d.mu.Unlock()
		for _, id := range forgotten {
			n, err := d.Calls.CancelQueued(ctx, id, removedText)
			if err != nil {
				d.failed(ctx, err)
				d.Forget(id)
			}
			d.ended.Add(int64(n))
			if n > 0 {
				d.Log.Info("queued calls of a removed function canceled", "function", id, "calls", n)
			}
			d.mu.Lock()
			if l := d.lines[id]; l != nil && l.here == 0 && !l.more && err == nil {
				delete(d.lines, id)
			}
			d.mu.Unlock()
		}
		select {
		case <-d.removed:
		case <-ctx.Done():
			return
		}
	}
}

package daemon

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"hob/faas"
	"hob/internal/doctor"
)

// health is what /readyz says.
type health struct {
	dir      string
	least    faas.Bytes   // free space below which the node is not ready; 0: not looked at
	logs     func() error // why lines and records cannot be kept; nil: they can
	draining atomic.Bool
	full     atomic.Pointer[string] // why the disk is too full; nil: it is not
}

// lookEvery is how often the free space is looked at.
const lookEvery = 2 * time.Second

// watch looks at the disk until ctx ends.
func (h *health) watch(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for h.look(); ; h.look() {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (h *health) look() {
	if h.least == 0 {
		return
	}
	free, err := doctor.FreeDisk(h.dir)
	switch {
	case err != nil:
		why := err.Error()
		h.full.Store(&why)
	case free < h.least:
		why := fmt.Sprintf("the disk of %s has %v free, and %v are wanted: remove images (hob image prune) or make room", h.dir, free, h.least)
		h.full.Store(&why)
	default:
		h.full.Store(nil)
	}
}

// unready returns why the node is not ready, or nothing.
func (h *health) unready() string {
	if h.draining.Load() {
		return "this node is shutting down"
	}
	failed := h.logs()
	if failed != nil {
		h.look() // the disk may be full, which the next look would find
	}
	if why := h.full.Load(); why != nil {
		return *why
	}
	if failed != nil {
		return failed.Error()
	}
	return ""
}

// room is why nothing more may be kept on the disk; nil if it may.
func (h *health) room() error {
	if why := h.full.Load(); why != nil {
		return faas.Errorf(faas.Busy, "%s", *why)
	}
	return nil
}

// alive answers that the process runs.
func (h *health) alive(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintln(w, "ok")
}

// ready answers whether the node takes calls. A node whose disk is full goes on
// serving what needs no disk; whoever sends calls should prefer another.
func (h *health) ready(w http.ResponseWriter, _ *http.Request) {
	if why := h.unready(); why != "" {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, why)
		return
	}
	fmt.Fprintln(w, "ready")
}

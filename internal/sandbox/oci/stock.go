package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/network"
	"hob/internal/sandbox"
)

// stock keeps blanks: sandboxes in which the seed waits. One fits starts that are equal
// in everything but ID, arguments and environment. Blanks are made for what was started
// within keepFor; what was started least lately gives way.
type stock struct {
	d    *Driver
	most int // blanks at once; at most 0: none

	mu    sync.Mutex
	byKey map[string]*shelf // guarded by mu, as all below
	held  int               // blanks that there are, or are being made
}

// keepFor is how long a blank is kept, and what was started remembered.
const keepFor = 2 * time.Minute

// makingPatience bounds the making of a blank.
const makingPatience = 30 * time.Second

// shortOfSlots is how long a shelf without a network slot waits until it asks for one again.
const shortOfSlots = 250 * time.Millisecond

// A shelf has the blanks of one key.
type shelf struct {
	ready  []*box
	making int
	want   int         // raised by each start that found none
	used   time.Time   // the last start
	timer  *time.Timer // ends the shelf when there was no start for keepFor
	short  *time.Timer // asks for a network slot again; nil: one is asked for at once
}

// keyOf returns what starts have in common that one blank may serve; "": none may. A blank holds the
// directories of layers, which may have been removed and unpacked again under the same
// names.
func keyOf(spec sandbox.Spec) string {
	spec.ID, spec.Args, spec.Env = "", nil, nil
	key, err := json.Marshal(spec)
	if err != nil {
		return "" // no Spec of ours: it holds nothing but words and numbers
	}
	for _, layer := range spec.Root.Layers {
		var st unix.Stat_t
		if err := unix.Stat(layer, &st); err != nil {
			return "" // the start says what is wrong
		}
		key = fmt.Appendf(key, " %d:%d", st.Dev, st.Ino)
	}
	return string(key)
}

// take returns a blank; nil if there is none.
func (s *stock) take(key string) *box {
	for {
		b := s.pop(key)
		if b == nil {
			return nil
		}
		select {
		case <-b.ended: // somebody has killed it
			b.discarded()
		default:
			return b
		}
	}
}

func (s *stock) pop(key string) *box {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.byKey[key]
	if h == nil || len(h.ready) == 0 {
		return nil
	}
	b := h.ready[0]
	h.ready = h.ready[1:]
	s.held--
	return b
}

// started takes note of a start, and has a blank made for the next one.
func (s *stock) started(key string, spec sandbox.Spec, from faas.Start) {
	if s.most <= 0 || key == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.byKey[key]
	if h == nil {
		h = &shelf{}
		h.timer = time.AfterFunc(keepFor, func() { s.expire(key, h) })
		s.byKey[key] = h
	}
	h.timer.Reset(keepFor)
	h.used = time.Now()
	if from == faas.StartOnDemand {
		h.want = min(h.want+1, s.most)
	}
	s.fill(key, h, spec)
}

// fill has the blanks made that h lacks, as far as there is room. The caller holds mu.
func (s *stock) fill(key string, h *shelf, spec sandbox.Spec) {
	for h.short == nil && len(h.ready)+h.making < h.want && s.room(h) && s.d.enter() {
		h.making++
		s.held++
		go func() {
			defer s.d.work.Done()
			s.make(key, h, spec)
		}()
	}
}

// room reports whether there is room for a blank of h, which another may have made. The
// caller holds mu.
func (s *stock) room(h *shelf) bool {
	if s.held < s.most {
		return true
	}
	var old *shelf
	for _, o := range s.byKey {
		if o != h && len(o.ready) > 0 && (old == nil || o.used.Before(old.used)) {
			old = o
		}
	}
	if old == nil || !s.d.enter() {
		return false
	}
	b := old.ready[0]
	old.ready = old.ready[1:]
	old.want = min(old.want, len(old.ready)+old.making)
	s.held--
	go func() {
		defer s.d.work.Done()
		b.discarded()
	}()
	return true
}

// make makes a blank. If no slot can be spared for it, its shelf comes again a little later.
func (s *stock) make(key string, h *shelf, spec sandbox.Spec) {
	ctx, cancel := context.WithTimeout(s.d.life, makingPatience)
	defer cancel()
	spec.ID = "blank"
	b, err := s.d.make(ctx, spec, true)
	few := errors.Is(err, network.ErrFew)
	s.mu.Lock()
	h.making--
	kept := err == nil && s.byKey[key] == h
	if kept {
		h.ready = append(h.ready, b)
	} else {
		s.held--
	}
	if few && h.short == nil && s.byKey[key] == h {
		h.short = time.AfterFunc(shortOfSlots, func() { s.again(key, h, spec) })
	}
	s.mu.Unlock()
	switch {
	case few:
	case err != nil && s.d.life.Err() == nil:
		s.d.cfg.Log.Warn("no sandbox could be made ahead of need", "err", err)
	case err == nil && !kept:
		b.discarded()
	}
}

// again fills a shelf for which no slot could be spared.
func (s *stock) again(key string, h *shelf, spec sandbox.Spec) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byKey[key] == h {
		h.short = nil
		s.fill(key, h, spec)
	}
}

// expire ends a shelf whose function was not started for a while.
func (s *stock) expire(key string, h *shelf) {
	s.mu.Lock()
	var left []*box
	if s.byKey[key] == h {
		delete(s.byKey, key)
		left, h.ready = h.ready, nil
		s.held -= len(left)
	}
	s.mu.Unlock()
	for _, b := range left {
		b.discarded()
	}
}

// close forgets all. The driver stops the blanks, as it does all sandboxes.
func (s *stock) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.byKey {
		h.timer.Stop()
		if h.short != nil {
			h.short.Stop()
		}
	}
	clear(s.byKey)
}

package network

import (
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

func TestFewSlotsDoNotTakeAllOfABound(t *testing.T) {
	b := newBound(4, 256)
	fill := func(s *Slot) (n int) {
		for b.enter(s) {
			n++
		}
		return n
	}
	if n := fill(new(Slot)); n != 4 {
		t.Errorf("one slot has %d; want 4", n)
	}
	for range 62 {
		fill(new(Slot))
	}
	late := new(Slot)
	if n := fill(late); n < 2 {
		t.Errorf("after 63 others a slot has %d; want at least 2", n)
	}
	for range 300 {
		fill(new(Slot))
	}
	if b.total != 256 || fill(new(Slot)) != 0 {
		t.Errorf("all have %d; want 256 and no more", b.total)
	}
	b.leave(late)
	if !b.enter(new(Slot)) {
		t.Error("what one gives back nobody gets")
	}
}

func TestErrorsOfASocketArePausedAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, n := time.Now(), 0
		repeat(t.Context(), func() error {
			if n++; n == 100 {
				return &net.OpError{Op: "accept", Err: net.ErrClosed}
			}
			return errors.New("too many open files")
		})
		if took := time.Since(began); n != 100 || took != 99*afterError {
			t.Errorf("%d tries in %v; want a pause of %v after each of 99", n, took, afterError)
		}
	})
}

// Package network makes the networks of sandboxes ahead of need: a new network
// namespace costs the kernel up to a millisecond, entering one that is ready
// costs microseconds.
//
// It owns two kinds. A Stock has networks with nothing but a loopback. A Router has
// slots: networks with addresses and a way out, under a Policy that says where to;
// the filters, the name server and what the node has for them. Which sandbox gets
// which, and what is done with a Refusal, is decided by its callers.
package network

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hob/internal/linux"
)

// A Network is a network namespace that nobody has used. Its owner closes it
// when the sandbox has entered it: the namespace then ends with the sandbox.
type Network struct{ fd int }

// FD is the namespace as setns wants it.
func (n *Network) FD() int { return n.fd }

// Close releases the namespace.
func (n *Network) Close() error { return unix.Close(n.fd) }

// Stock keeps networks ready.
type Stock struct {
	home    int // the network of this process
	ready   chan *Network
	threads chan *linux.Thread // idle ones that Take has used
	stop    context.CancelFunc
	work    sync.WaitGroup
}

// idleThreads is how many threads stay for the next Take that finds no network.
const idleThreads = 8

// NewStock returns a stock that keeps size networks ready until Close.
func NewStock(size int) (*Stock, error) {
	t, err := linux.NewThread(func() error { return nil })
	if err != nil {
		return nil, err
	}
	home, err := linux.OpenNamespace(t.TID(), "net")
	if err != nil {
		t.Close()
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Stock{home: home, ready: make(chan *Network, size), threads: make(chan *linux.Thread, idleThreads), stop: stop}
	s.work.Go(func() {
		defer t.Close()
		s.refill(ctx, t)
	})
	return s, nil
}

// Take returns an unused network: a ready one, else one made now. It must not be
// called after Close.
func (s *Stock) Take() (*Network, error) {
	select {
	case n := <-s.ready:
		return n, nil
	default:
	}
	var t *linux.Thread
	select {
	case t = <-s.threads:
	default:
		var err error
		if t, err = linux.NewThread(func() error { return nil }); err != nil {
			return nil, err
		}
	}
	n, err := s.makeOn(t)
	if err != nil {
		t.Close() // whatever network it is in
		return nil, err
	}
	select {
	case s.threads <- t:
	default:
		t.Close()
	}
	return n, nil
}

// Close ends the refilling and releases what is in stock.
func (s *Stock) Close() {
	s.stop()
	s.work.Wait()
	close(s.ready)
	for n := range s.ready {
		n.Close()
	}
	close(s.threads)
	for t := range s.threads {
		t.Close()
	}
	unix.Close(s.home)
}

// refill makes networks until the stock is full, and again when one was taken.
// One that cannot be made is not told here, Take will say why; a second later it
// tries again.
func (s *Stock) refill(ctx context.Context, t *linux.Thread) {
	for {
		n, err := s.makeOn(t)
		if err != nil {
			select {
			case <-time.After(time.Second):
				continue
			case <-ctx.Done():
				return
			}
		}
		select {
		case s.ready <- n:
		case <-ctx.Done():
			n.Close()
			return
		}
		if len(s.ready) > cap(s.ready)/2 {
			select {
			case <-time.After(manners):
			case <-ctx.Done():
				return
			}
		}
	}
}

// manners is how long the next network waits while the stock is more than half
// full: one was just taken, so a sandbox is starting, and to make a network beside
// it costs that start a fifth of a millisecond on two cores.
const manners = 5 * time.Millisecond

// makeOn makes a network on a thread. After an error the thread may be in any.
func (s *Stock) makeOn(t *linux.Thread) (n *Network, err error) {
	t.Do(func() {
		var fd int
		if fd, err = linux.NewNetwork(s.home); err == nil {
			n = &Network{fd}
		}
	})
	return n, err
}

// Package network makes the networks of sandboxes ahead of need: a new network
// namespace costs the kernel up to a millisecond, entering one that is ready
// costs microseconds.
//
// It owns the stock of unused networks and the goroutine that refills it. For
// now a network has only a loopback device; addresses, routes, egress rules and
// name servers come here, too.
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
	ready chan *Network
	stop  context.CancelFunc
	work  sync.WaitGroup
}

// NewStock returns a stock that keeps size networks ready until Close.
func NewStock(size int) *Stock {
	ctx, stop := context.WithCancel(context.Background())
	s := &Stock{ready: make(chan *Network, size), stop: stop}
	s.work.Go(func() { s.refill(ctx) })
	return s
}

// Take returns an unused network: a ready one, else one made now.
func (s *Stock) Take() (*Network, error) {
	select {
	case n := <-s.ready:
		return n, nil
	default:
		return makeNetwork()
	}
}

// Close ends the refilling and releases what is in stock.
func (s *Stock) Close() {
	s.stop()
	s.work.Wait()
	close(s.ready)
	for n := range s.ready {
		n.Close()
	}
}

// refill makes networks until the stock is full, and again when one was taken.
// One that cannot be made is not told here, Take will say why; a second later it
// tries again.
func (s *Stock) refill(ctx context.Context) {
	t, _ := linux.NewThread(func() error { return nil })
	defer t.Close()
	for {
		n, err := makeOn(t)
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

// makeNetwork makes a network on a thread that ends with it.
func makeNetwork() (*Network, error) {
	t, err := linux.NewThread(func() error { return nil })
	if err != nil {
		return nil, err
	}
	defer t.Close()
	return makeOn(t)
}

func makeOn(t *linux.Thread) (n *Network, err error) {
	t.Do(func() {
		var fd int
		if fd, err = linux.NewNetwork(); err == nil {
			n = &Network{fd}
		}
	})
	return n, err
}

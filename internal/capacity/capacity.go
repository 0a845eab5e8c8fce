// Package capacity is what this node can give to sandboxes: memory and
// processors, reserved before a sandbox starts and released when nothing of it is
// left, or while it stands still.
//
// It counts and never waits. Who waits, in which order, and who makes room is
// decided by package pool.
package capacity

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"hob/faas"
)

// Node is the capacity of one node. Its methods may be called from many
// goroutines.
type Node struct {
	total faas.Resources

	mu   sync.Mutex
	free faas.Resources // guarded by mu
}

// New returns a Node with total to give away.
func New(total faas.Resources) *Node { return &Node{total: total, free: total} }

// TryReserve reserves r and reports whether there was room for it. What it
// reserved must be given back with Release.
func (c *Node) TryReserve(r faas.Resources) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Memory > c.free.Memory || r.CPU > c.free.CPU {
		return false
	}
	c.free = c.free.Minus(r)
	return true
}

// Release gives back r.
func (c *Node) Release(r faas.Resources) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.free = c.free.Plus(r)
}

// Total is all there is to give.
func (c *Node) Total() faas.Resources { return c.total }

// Free is what is not given away now.
func (c *Node) Free() faas.Resources {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.free
}

// share of the machine's memory that sandboxes may have, in percent: the rest is
// for the daemon, the system and its page cache.
const share = 80

// OfMachine returns the memory that sandboxes may have on this machine: 80 % of
// what the machine has.
func OfMachine() (faas.Bytes, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("memory of this machine: %w", err)
	}
	defer f.Close()
	total, err := readTotal(f)
	return total / 100 * share, err
}

func readTotal(r io.Reader) (faas.Bytes, error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), "MemTotal:")
		if !ok {
			continue
		}
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("memory of this machine: %w", err)
		}
		return faas.Bytes(kb) * faas.KB, nil
	}
	return 0, fmt.Errorf("memory of this machine: /proc/meminfo names no MemTotal")
}

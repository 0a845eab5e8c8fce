// Package capacity is what this node can give to sandboxes: memory, reserved
// before a sandbox starts and released when nothing of it is left.
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

// Node is the memory of one node. Its methods may be called from many
// goroutines.
type Node struct {
	total faas.Bytes

	mu       sync.Mutex
	reserved faas.Bytes // guarded by mu
}

// New returns a Node with total bytes to give away.
func New(total faas.Bytes) *Node { return &Node{total: total} }

// TryReserve reserves n bytes and reports whether there was room for them. What
// it reserved must be given back with Release.
func (c *Node) TryReserve(n faas.Bytes) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n > c.total-c.reserved {
		return false
	}
	c.reserved += n
	return true
}

// Release gives back n bytes.
func (c *Node) Release(n faas.Bytes) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reserved -= n
}

// Total is all there is to give.
func (c *Node) Total() faas.Bytes { return c.total }

// Reserved is what is given away now.
func (c *Node) Reserved() faas.Bytes {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reserved
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

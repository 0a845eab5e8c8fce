package dispatch

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"
)

// marks are the calls that have begun and not ended, in a file of slots. A mark is
// one small write that waits for no disk: it is there after the daemon was killed,
// and after a power cut it may not be. So the file says in which run of the machine
// it was written.
type marks struct {
	file *os.File
	run  string // of the machine

	mu   sync.Mutex
	at   map[string]int64 // slot by call ID; guarded by mu, as all below
	free []int64          // slots that are not in use
	next int64            // the first slot that never was
}

const (
	markHead = 64 // bytes: the run of the machine
	markSize = 32 // bytes of a slot, more than an ID has
)

// openMarks opens the file of marks. begun are the calls that it holds, until it is
// reset; with known, no other call had begun.
func openMarks(name string) (m *marks, begun map[string]bool, known bool, err error) {
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, false, fmt.Errorf("open the marks of calls: %w", err)
	}
	defer func() {
		if err != nil {
			file.Close()
			err = fmt.Errorf("open the marks of calls: %w", err)
		}
	}()
	old, err := os.ReadFile(name)
	if err != nil {
		return nil, nil, false, err
	}
	run := machineRun()
	begun = make(map[string]bool)
	if len(old) >= markHead {
		known = run != "" && string(bytes.TrimRight(old[:markHead], "\x00")) == run
		for slot := old[markHead:]; len(slot) >= markSize; slot = slot[markSize:] {
			if id := string(bytes.TrimRight(slot[:markSize], "\x00")); id != "" {
				begun[id] = true
			}
		}
	}
	return &marks{file: file, run: run, at: make(map[string]int64)}, begun, known, nil
}

// reset empties the file, when what it held is settled.
func (m *marks) reset() error {
	head := make([]byte, markHead)
	copy(head, m.run)
	err := m.file.Truncate(0)
	if err == nil {
		_, err = m.file.WriteAt(head, 0)
	}
	if err != nil {
		return fmt.Errorf("reset the marks of calls: %w", err)
	}
	return nil
}

// machineRun names the present run of this machine; empty if that is not known.
func machineRun() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

// begin marks a call. When a mark cannot be written, the file is made to say nothing:
// all calls that this daemon has taken will be thought to have begun.
func (m *marks) begin(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	slot := m.next
	if n := len(m.free); n > 0 {
		slot, m.free = m.free[n-1], m.free[:n-1]
	} else {
		m.next++
	}
	m.at[id] = slot
	err := m.write(slot, id)
	if err != nil {
		_, _ = m.file.WriteAt(make([]byte, markHead), 0) // in place: that needs no room
	}
	return err
}

// end takes the mark of a call away, if it has one.
func (m *marks) end(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	slot, marked := m.at[id]
	if !marked {
		return nil
	}
	delete(m.at, id)
	m.free = append(m.free, slot)
	return m.write(slot, "")
}

func (m *marks) write(slot int64, id string) error {
	var b [markSize]byte
	copy(b[:], id)
	_, err := m.file.WriteAt(b[:], markHead+slot*markSize)
	return err
}

func (m *marks) close() error { return m.file.Close() }

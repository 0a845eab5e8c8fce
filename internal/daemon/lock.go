package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"hob/faas"
	"hob/internal/linux"
)

// inheritance bounds how long a lock is waited for whose owner is dead: what it ran
// ends before its lock is free.
const inheritance = 15 * time.Second

// lockData takes the right to a data directory until the file is closed, or
// reports who has it as Conflict.
func lockData(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	f, err := linux.LockFile(filepath.Join(dir, "lock"))
	for begin := time.Now(); errors.Is(err, linux.ErrLocked); f, err = linux.LockFile(f.Name()) {
		text, _ := io.ReadAll(io.LimitReader(f, 20))
		f.Close()
		owner := strings.TrimSpace(string(text))
		pid, _ := strconv.Atoi(owner)
		if !linux.HasEnded(pid) || time.Since(begin) > inheritance {
			return nil, faas.Errorf(faas.Conflict, "the data directory %s is in use by another hob, process %s: stop that one, or give this one another --data",
				dir, owner)
		}
		time.Sleep(time.Millisecond)
	}
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = fmt.Fprintln(f, os.Getpid())
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	return f, nil
}

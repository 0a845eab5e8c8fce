package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"hob/faas"
	"hob/internal/linux"
)

// lockData takes the right to a data directory until the file is closed, or
// reports who has it as Conflict.
func lockData(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	f, err := linux.LockFile(filepath.Join(dir, "lock"))
	if errors.Is(err, linux.ErrLocked) {
		defer f.Close()
		pid, _ := io.ReadAll(io.LimitReader(f, 20))
		return nil, faas.Errorf(faas.Conflict, "the data directory %s is in use by another hob, process %s: stop that one, or give this one another --data",
			dir, strings.TrimSpace(string(pid)))
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

package ns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"hob/faas"
	"hob/internal/linux"
)

const lockSuffix = ".lock"

// lockGeneration takes the lock that says that a generation lives. It is free
// again when its daemon has ended, however it ended.
func lockGeneration(dir, generation string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("lock generation %s: %w", generation, err)
	}
	f, err := linux.LockFile(filepath.Join(dir, generation+lockSuffix))
	if errors.Is(err, linux.ErrLocked) {
		f.Close()
		return nil, faas.Errorf(faas.Conflict, "generation %s is alive: %w", generation, err)
	}
	if err != nil {
		return nil, fmt.Errorf("lock generation %s: %w", generation, err)
	}
	return f, nil
}

// unlockGeneration removes and releases a lock.
func unlockGeneration(f *os.File) {
	os.Remove(f.Name())
	f.Close()
}

func generationOf(lockFile string) string {
	return strings.TrimSuffix(filepath.Base(lockFile), lockSuffix)
}

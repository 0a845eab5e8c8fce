package layer_test

import (
	"io/fs"
	"os/exec"
	"syscall"
	"testing"
)

// run runs a program and returns what it prints.
func run(t testing.TB, program string, args ...string) []byte {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, args...).Output()
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	return out
}

// isWhiteoutFile reports whether d is a device 0/0.
func isWhiteoutFile(d fs.DirEntry) bool {
	info, err := d.Info()
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Rdev == 0
}

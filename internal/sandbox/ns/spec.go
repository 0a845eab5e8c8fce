package ns

import (
	"strings"

	"hob/internal/sandbox"
)

// socketMemory is what it is with every driver.
const socketMemory = sandbox.SocketMemory

// complete checks spec and fills in what it leaves to the driver.
func (d *Driver) complete(spec sandbox.Spec) (sandbox.Spec, error) { return spec.Complete(d.caps, 1) }

// directories returns what must exist in the root of spec. The directory for
// sockets is made by the process if it lies in what is mounted when it starts.
func directories(spec sandbox.Spec) []string {
	dirs := append([]string{spec.Dir}, spec.Volumes...)
	if _, scratch := scratchOf(spec, spec.Sockets); spec.Sockets != "" && !scratch {
		dirs = append(dirs, spec.Sockets)
	}
	return dirs
}

// scratchOf returns the deepest empty directory of a new sandbox that dir is in
// or is, and whether there is one.
func scratchOf(spec sandbox.Spec, dir string) (at string, ok bool) {
	for _, s := range spec.Scratches() {
		if (dir == s || strings.HasPrefix(dir, s+"/")) && len(s) > len(at) {
			at, ok = s, true
		}
	}
	return at, ok
}

package ns

import (
	"cmp"
	"path"
	"slices"
	"strings"

	"hob/faas"
	"hob/internal/sandbox"
)

// Defaults of a Spec.
const (
	defaultPIDs           = 1024
	defaultFiles          = 65536
	defaultLockedMemory   = faas.MB
	defaultPendingSignals = 4096
	defaultMessageQueues  = 800 * faas.KB
	defaultTmp            = 64 * faas.MB
)

// socketMemory is what a sandbox may have in its TCP and UDP sockets besides its
// memory, where cgroups are of version 1; in version 2 it is a part of its memory.
const socketMemory = 16 << 20

// The least that a sandbox can start with.
const (
	leastFiles  = 8  // its streams, and what a loader opens
	leastInodes = 16 // directories for sockets, and of a writable root
)

// complete checks spec and fills in what it leaves to the driver.
func (d *Driver) complete(spec sandbox.Spec) (sandbox.Spec, error) {
	if len(spec.Args) == 0 || spec.Args[0] == "" {
		return spec, faas.Errorf(faas.Invalid, "there is no command to run: neither the function nor its image has one")
	}
	if len(spec.Root.Layers) == 0 {
		return spec, faas.Errorf(faas.Invalid, "the root filesystem has no layers")
	}
	for _, id := range append([]uint32{spec.User.UID, spec.User.GID}, spec.User.Groups...) {
		if id >= idCount {
			return spec, faas.Errorf(faas.Invalid, "user or group %d is over the highest of %d", id, idCount-1)
		}
	}
	if spec.User.UID == 0 && !d.caps.UserNamespaces {
		return spec, faas.Errorf(faas.Unsupported, "this node cannot run a function as root: %s", strings.Join(d.caps.Notes, "; "))
	}
	if spec.Memory < faas.MinMemory {
		return spec, faas.Errorf(faas.Invalid, "memory %v is under the least of %v", spec.Memory, faas.MinMemory)
	}
	if spec.TmpSize == 0 {
		spec.TmpSize = min(defaultTmp, spec.Memory/2)
	}
	if spec.OwnDevice() && d.cfg.Router == nil {
		return spec, faas.Errorf(faas.Unsupported, "this node cannot give a function a network: only network none (a loopback) and host are possible")
	}
	for _, device := range spec.Devices {
		if path.Clean(device) != device || !strings.HasPrefix(device, "/dev/") {
			return spec, faas.Errorf(faas.Invalid, "device %q is not the path of a file below /dev", device)
		}
	}
	var err error
	if spec.Limits, err = completeLimits(spec.Limits, spec.TmpSize); err != nil {
		return spec, err
	}
	spec.Dir = path.Join("/", spec.Dir)
	spec.Volumes = slices.Clone(spec.Volumes)
	for i, v := range spec.Volumes {
		spec.Volumes[i] = path.Join("/", v)
	}
	slices.Sort(spec.Volumes) // a volume in a volume is mounted after it
	if spec.Sockets != "" {
		if spec.Sockets = path.Join("/", spec.Sockets); spec.Sockets == "/" {
			return spec, faas.Errorf(faas.Invalid, "the directory for sockets cannot be the root directory")
		}
	}
	_, err = spec.Listens()
	return spec, err
}

// completeLimits is complete for limits; tmp is the size of what TmpInodes is of.
func completeLimits(l sandbox.Limits, tmp faas.Bytes) (sandbox.Limits, error) {
	inodes := max(1024, int(tmp/faas.KB)) // one for each kilobyte
	l.PIDs, l.Files = cmp.Or(l.PIDs, defaultPIDs), cmp.Or(l.Files, defaultFiles)
	l.LockedMemory, l.PendingSignals = cmp.Or(l.LockedMemory, defaultLockedMemory), cmp.Or(l.PendingSignals, defaultPendingSignals)
	l.MessageQueues, l.TmpInodes = cmp.Or(l.MessageQueues, defaultMessageQueues), cmp.Or(l.TmpInodes, inodes)
	switch {
	case l.PIDs < 0 || l.LockedMemory < 0 || l.PendingSignals < 0 || l.MessageQueues < 0:
		return l, faas.Errorf(faas.Invalid, "a limit of the sandbox is negative: %+v", l)
	case l.Files < leastFiles:
		return l, faas.Errorf(faas.Invalid, "a limit of %d open files is under the least of %d", l.Files, leastFiles)
	case l.TmpInodes < leastInodes:
		return l, faas.Errorf(faas.Invalid, "a limit of %d files in /tmp is under the least of %d", l.TmpInodes, leastInodes)
	}
	return l, nil
}

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
	for _, s := range scratches(spec) {
		if (dir == s || strings.HasPrefix(dir, s+"/")) && len(s) > len(at) {
			at, ok = s, true
		}
	}
	return at, ok
}

// scratches returns where a sandbox gets empty directories of its own, in the
// order in which they are mounted.
func scratches(spec sandbox.Spec) []string {
	dirs := []string{"/dev/shm"}
	if !spec.Writable {
		dirs = append(dirs, "/tmp")
	}
	return append(dirs, spec.Volumes...)
}

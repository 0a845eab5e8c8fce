package sandbox

import (
	"cmp"
	"path"
	"slices"
	"strings"

	"hob/faas"
)

// SocketMemory is what a sandbox may have in its TCP and UDP sockets besides its
// memory, in bytes, where cgroups are of version 1; in version 2 it is a part of its memory.
const SocketMemory = 16 << 20

// Defaults of a Spec.
const (
	defaultPIDs           = 1024
	defaultFiles          = 65536
	defaultLockedMemory   = faas.MB
	defaultPendingSignals = 4096
	defaultMessageQueues  = 800 * faas.KB
	defaultTmp            = 64 * faas.MB
)

// The least that a sandbox can start with.
const (
	leastFiles  = 8  // its streams, and what a loader opens
	leastInodes = 16 // directories for sockets, and of a writable root
)

// Complete checks s, and fills in what it leaves to a driver that can do what can says,
// and starts no sandbox with less than leastPIDs processes. It is for drivers.
func (s Spec) Complete(can Capabilities, leastPIDs int) (Spec, error) {
	if len(s.Args) == 0 || s.Args[0] == "" {
		return s, faas.Errorf(faas.Invalid, "there is no command to run: neither the function nor its image has one")
	}
	if len(s.Root.Layers) == 0 {
		return s, faas.Errorf(faas.Invalid, "the root filesystem has no layers")
	}
	for _, id := range append([]uint32{s.User.UID, s.User.GID}, s.User.Groups...) {
		if id >= IDs {
			return s, faas.Errorf(faas.Invalid, "user or group %d is over the highest of %d", id, IDs-1)
		}
	}
	if s.User.UID == 0 && !can.UserNamespaces {
		return s, faas.Errorf(faas.Unsupported, "this node cannot run a function as root: %s", strings.Join(can.Notes, "; "))
	}
	if s.Memory < faas.MinMemory {
		return s, faas.Errorf(faas.Invalid, "memory %v is under the least of %v", s.Memory, faas.MinMemory)
	}
	if s.TmpSize == 0 {
		s.TmpSize = min(defaultTmp, s.Memory/2)
	}
	for _, device := range s.Devices {
		switch {
		case !can.Devices:
			return s, faas.Errorf(faas.Unsupported, "sandboxes of %s cannot have devices of the machine", can.Driver)
		case path.Clean(device) != device || !strings.HasPrefix(device, "/dev/"):
			return s, faas.Errorf(faas.Invalid, "device %q is not the path of a file below /dev", device)
		}
	}
	if s.OwnDevice() && !can.Egress {
		return s, faas.Errorf(faas.Unsupported, "this node cannot give a function a network: only network none (a loopback) and host are possible")
	}
	var err error
	if s.Limits, err = s.Limits.complete(can.Driver, leastPIDs, s.TmpSize); err != nil {
		return s, err
	}
	s.Dir = path.Join("/", s.Dir)
	s.Volumes = slices.Clone(s.Volumes)
	for i, v := range s.Volumes {
		s.Volumes[i] = path.Join("/", v)
	}
	slices.Sort(s.Volumes) // a volume in a volume is mounted after it
	if s.Sockets != "" {
		if s.Sockets = path.Join("/", s.Sockets); s.Sockets == "/" {
			return s, faas.Errorf(faas.Invalid, "the directory for sockets cannot be the root directory")
		}
	}
	_, err = s.Listens()
	return s, err
}

// complete is Complete for limits; tmp is the size of what TmpInodes is of.
func (l Limits) complete(driver string, leastPIDs int, tmp faas.Bytes) (Limits, error) {
	inodes := max(1024, int(tmp/faas.KB)) // one for each kilobyte
	l.PIDs, l.Files = cmp.Or(l.PIDs, defaultPIDs), cmp.Or(l.Files, defaultFiles)
	l.LockedMemory, l.PendingSignals = cmp.Or(l.LockedMemory, defaultLockedMemory), cmp.Or(l.PendingSignals, defaultPendingSignals)
	l.MessageQueues, l.TmpInodes = cmp.Or(l.MessageQueues, defaultMessageQueues), cmp.Or(l.TmpInodes, inodes)
	switch {
	case l.LockedMemory < 0 || l.PendingSignals < 0 || l.MessageQueues < 0:
		return l, faas.Errorf(faas.Invalid, "a limit of the sandbox is negative: %+v", l)
	case l.PIDs < leastPIDs:
		return l, faas.Errorf(faas.Invalid, "a limit of %d processes is under the least of %d, with which %s starts a sandbox", l.PIDs, leastPIDs, driver)
	case l.Files < leastFiles:
		return l, faas.Errorf(faas.Invalid, "a limit of %d open files is under the least of %d, with which a sandbox starts", l.Files, leastFiles)
	case l.TmpInodes < leastInodes:
		return l, faas.Errorf(faas.Invalid, "a limit of %d files in /tmp is under the least of %d", l.TmpInodes, leastInodes)
	}
	return l, nil
}

// Scratches returns where a sandbox gets empty directories of its own, in the
// order in which they are mounted. It is for drivers.
func (s Spec) Scratches() []string {
	dirs := []string{"/dev/shm"}
	if !s.Writable {
		dirs = append(dirs, "/tmp")
	}
	return append(dirs, s.Volumes...)
}

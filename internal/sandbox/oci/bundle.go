package oci

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hob/internal/sandbox"
)

// What is in the directory of a sandbox, besides config.json.
const (
	rootDir  = "root"    // where its root is mounted
	sockDir  = "sockets" // where its directory for sockets is mounted
	sysDir   = "sys"     // where the sysfs of its network is mounted
	stateDir = "state"   // the program's own
	pidFile  = "pid"
	logFile  = "log"
)

// scratchDir is where the ith of scratches is mounted.
func scratchDir(i int) string { return "scratch" + strconv.Itoa(i) }

// makeBundle fills dir, for spec, whose host name is host.
func (d *Driver) makeBundle(dir string, spec sandbox.Spec, host string) error {
	subs := []string{rootDir, sockDir, sysDir, stateDir}
	for i := range scratches(spec) {
		subs = append(subs, scratchDir(i))
	}
	for _, sub := range subs {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o711); err != nil {
			return err
		}
	}
	text, err := json.Marshal(d.config(dir, spec, host))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600)
}

// config is what the runtime program is told.
func (d *Driver) config(dir string, spec sandbox.Spec, host string) *specs.Spec {
	process := &specs.Process{
		User: specs.User{UID: spec.User.UID, GID: spec.User.GID, AdditionalGids: spec.User.Groups},
		Args: []string{fmt.Sprint("/proc/self/fd/", seedFile)}, Cwd: spec.Dir,
		Capabilities:    &specs.LinuxCapabilities{},
		NoNewPrivileges: true,
		Rlimits: []specs.POSIXRlimit{
			limit("CORE", unix.RLIMIT_CORE, 1), limit("NOFILE", unix.RLIMIT_NOFILE, uint64(spec.Files)),
			limit("MEMLOCK", unix.RLIMIT_MEMLOCK, uint64(spec.LockedMemory)), limit("SIGPENDING", unix.RLIMIT_SIGPENDING, uint64(spec.PendingSignals)),
			limit("MSGQUEUE", unix.RLIMIT_MSGQUEUE, uint64(spec.MessageQueues)),
		},
	}
	l := &specs.Linux{
		CgroupsPath: "/" + d.cgroup() + "/" + filepath.Base(dir) + "/" + innerCgroup,
		Resources:   &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
		Namespaces:  []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace}},
		// Those of Docker: what tells of the machine, and what would change it.
		MaskedPaths: []string{"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
			"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/pressure", "/sys/firmware", "/sys/devices/virtual/powercap"},
		ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
	}
	add := func(t specs.LinuxNamespaceType) { l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: t}) }
	if d.kind.ownKernel {
		process.Rlimits = append(process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_NPROC", Hard: uint64(spec.PIDs), Soft: uint64(spec.PIDs)})
		switch {
		case spec.OwnDevice(): // where the reaper is; its device, addresses and routes are taken over
			l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/proc/1/ns/net"})
		case !spec.HostNetwork():
			add(specs.NetworkNamespace)
		}
	} else { // the process that runs the program is in the sandbox's network already
		add(specs.CgroupNamespace)
		l.Seccomp = systemCalls()
	}
	if d.userns >= 0 {
		add(specs.UserNamespace)
		ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: idBase, Size: idCount}}
		l.UIDMappings, l.GIDMappings = ids, ids
	}
	return &specs.Spec{
		Version: "1.0.2", Hostname: host, Process: process, Linux: l, Mounts: d.mounts(dir, spec),
		Root: &specs.Root{Path: filepath.Join(dir, rootDir), Readonly: !spec.Writable},
	}
}

// limit is a limit of a process. More than the daemon's own needs a capability that
// it may lack.
func limit(name string, resource int, most uint64) specs.POSIXRlimit {
	var own unix.Rlimit
	if err := unix.Getrlimit(resource, &own); err == nil {
		most = min(most, own.Max)
	}
	return specs.POSIXRlimit{Type: "RLIMIT_" + name, Hard: most, Soft: most}
}

// mounts are those of a sandbox below its root, in the order in which they are made.
func (d *Driver) mounts(dir string, spec sandbox.Spec) []specs.Mount {
	safe := []string{"nosuid", "nodev"}
	safeNoExec := []string{"nosuid", "nodev", "noexec"}
	with := func(options []string, more ...string) []string {
		return append(options[:len(options):len(options)], more...)
	}
	mounts := []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc", Options: safeNoExec}}
	if d.kind.ownKernel {
		mounts = append(mounts, specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: with(safeNoExec, "ro")})
	} else {
		mounts = append(mounts, specs.Mount{Destination: "/sys", Type: "bind", Source: filepath.Join(dir, sysDir), Options: with(safeNoExec, "bind", "ro")})
	}
	mounts = append(mounts,
		specs.Mount{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "mode=755", "size=64k"}},
		specs.Mount{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=0"}},
		specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: safeNoExec},
	)
	if !d.kind.ownKernel {
		mounts[2].Options = append(mounts[2].Options, "ro") // done by them when all is in it
	}
	for i, at := range scratches(spec) {
		m := specs.Mount{Destination: at, Type: "tmpfs", Source: "tmpfs", Options: with(safe, "mode=1777", "size="+strconv.FormatInt(int64(spec.TmpSize), 10))}
		if !d.kind.ownKernel { // one that is made already: not every program sets its mode and number of files
			m = specs.Mount{Destination: at, Type: "bind", Source: filepath.Join(dir, scratchDir(i)), Options: with(safe, "bind", "rw")}
		}
		mounts = append(mounts, m)
	}
	if spec.Sockets != "" {
		mounts = append(mounts, specs.Mount{Destination: spec.Sockets, Type: "bind", Source: filepath.Join(dir, sockDir), Options: with(safeNoExec, "bind", "rw")})
	}
	return mounts
}

// architectures are the names that the filter of system calls has for this processor.
func architectures() []specs.Arch {
	switch runtime.GOARCH {
	case "amd64":
		return []specs.Arch{specs.ArchX86_64}
	case "arm64":
		return []specs.Arch{specs.ArchAARCH64}
	}
	panic(fmt.Sprintf("hob does not run on %s", runtime.GOARCH))
}

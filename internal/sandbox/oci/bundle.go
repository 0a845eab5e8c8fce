package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hob/internal/linux"
	"hob/internal/sandbox"
)

// What is in the directory of a sandbox, besides config.json.
const (
	rootDir   = "root"    // where its root is mounted
	sockDir   = "sockets" // where its directory for sockets is mounted
	sysDir    = "sys"     // where the sysfs of its network is mounted
	stateDir  = "state"   // the program's own
	pidFile   = "pid"
	logFile   = "log"
	deviceDir = "devices" // where a file system with devices is mounted
	userFile  = "users"   // where its user namespace is mounted
)

// deviceFile is where the ith device is, in a mount of its own.
func deviceFile(i int) string { return filepath.Join(deviceDir, strconv.Itoa(i)) }

// scratchDir is where the ith of scratches is mounted.
func scratchDir(i int) string { return "scratch" + strconv.Itoa(i) }

// makeBundle fills the bundle of b, for spec.
func (b *box) makeBundle(spec sandbox.Spec) error {
	subs := []string{rootDir, sockDir, sysDir, stateDir, deviceDir}
	for i := range spec.Scratches() {
		subs = append(subs, scratchDir(i))
	}
	for _, sub := range subs {
		if err := os.Mkdir(filepath.Join(b.dir, sub), 0o711); err != nil {
			return err
		}
	}
	text, err := json.Marshal(b.config(spec))
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(b.dir, "config.json"), text, 0o600), os.WriteFile(filepath.Join(b.dir, userFile), nil, 0o600))
}

// config is what the runtime program is told.
func (b *box) config(spec sandbox.Spec) *specs.Spec {
	process := &specs.Process{
		User: specs.User{UID: spec.User.UID, GID: spec.User.GID, AdditionalGids: spec.User.Groups},
		Args: []string{fmt.Sprint("/proc/self/fd/", seedFile)}, Cwd: spec.Dir,
		Capabilities:    &specs.LinuxCapabilities{},
		NoNewPrivileges: true,
	}
	l := &specs.Linux{
		CgroupsPath: "/" + b.name + "/" + innerCgroup,
		Resources:   &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
		Namespaces:  []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace}},
		// Those of Docker: what tells of the machine, and what would change it.
		MaskedPaths: []string{"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
			"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/pressure", "/sys/firmware", "/sys/devices/virtual/powercap"},
		ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
	}
	for _, device := range spec.Devices {
		if kind, number, ok := linux.FindDevice(device); ok {
			major, minor := int64(unix.Major(number)), int64(unix.Minor(number))
			l.Resources.Devices = append(l.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: map[uint32]string{unix.S_IFCHR: "c", unix.S_IFBLK: "b"}[kind], Major: &major, Minor: &minor, Access: "rw"})
		}
	}
	add := func(t specs.LinuxNamespaceType) { l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: t}) }
	if b.d.kind.ownKernel {
		for name, most := range map[string]int{"CORE": 1, "NOFILE": spec.Files, "NPROC": spec.PIDs} { // the others are not enforced
			process.Rlimits = append(process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_" + name, Hard: uint64(most), Soft: uint64(most)})
		}
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
	if b.users.namespace >= 0 { // one that we have made: what a runtime makes belongs to root
		l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: filepath.Join(b.dir, userFile)})
		ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(b.users.base), Size: sandbox.IDs}}
		l.UIDMappings, l.GIDMappings = ids, ids
	}
	return &specs.Spec{
		Version: "1.0.2", Hostname: b.host, Process: process, Linux: l, Mounts: b.mounts(spec),
		Root: &specs.Root{Path: filepath.Join(b.dir, rootDir), Readonly: !spec.Writable},
	}
}

// mounts are those of a sandbox below its root, in the order in which they are made.
func (b *box) mounts(spec sandbox.Spec) []specs.Mount {
	safe := []string{"nosuid", "nodev"}
	safeNoExec := []string{"nosuid", "nodev", "noexec"}
	with := func(options []string, more ...string) []string {
		return append(options[:len(options):len(options)], more...)
	}
	mounts := []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc", Options: safeNoExec}}
	if b.d.kind.ownKernel {
		mounts = append(mounts, specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: with(safeNoExec, "ro")})
	} else {
		mounts = append(mounts, specs.Mount{Destination: "/sys", Type: "bind", Source: filepath.Join(b.dir, sysDir), Options: with(safeNoExec, "bind", "ro")})
	}
	mounts = append(mounts,
		specs.Mount{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "mode=755", "size=64k"}},
		specs.Mount{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=0"}},
		specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: safeNoExec},
	)
	if !b.d.kind.ownKernel {
		mounts[2].Options = append(mounts[2].Options, "ro") // done by them when all is in it
	}
	for i, at := range spec.Scratches() {
		m := specs.Mount{Destination: at, Type: "tmpfs", Source: "tmpfs", Options: with(safe, "mode=1777", "size="+strconv.FormatInt(int64(spec.TmpSize), 10))}
		if !b.d.kind.ownKernel { // one that is made already: not every program sets its mode and number of files
			m = specs.Mount{Destination: at, Type: "bind", Source: filepath.Join(b.dir, scratchDir(i)), Options: with(safe, "bind", "rw")}
		}
		mounts = append(mounts, m)
	}
	for i, device := range spec.Devices {
		mounts = append(mounts, specs.Mount{Destination: device, Type: "bind", Source: filepath.Join(b.dir, deviceFile(i)), Options: []string{"bind", "rw", "nosuid", "noexec"}})
	}
	if spec.Sockets != "" {
		mounts = append(mounts, specs.Mount{Destination: spec.Sockets, Type: "bind", Source: filepath.Join(b.dir, sockDir), Options: with(safeNoExec, "bind", "rw")})
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

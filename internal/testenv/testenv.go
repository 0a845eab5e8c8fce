// Package testenv says what this machine can do, so that a test that needs
// root, a kernel feature or a program of another project can skip with the
// reason, and it finds what a test left behind on the machine.
//
// With HOB_TEST_MUST_RUN=1 in the environment (continuous integration sets it) a
// skip is a failure that tells how to get what is missing: a test that nobody
// runs guards nothing. No other package may call t.Skip; archtest sees to it.
package testenv

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// MustRun reports whether a test that cannot run is a failure.
func MustRun() bool { return os.Getenv("HOB_TEST_MUST_RUN") == "1" }

// NeedRoot skips the test unless it runs as root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if uid := os.Geteuid(); uid != 0 {
		skip(t, fmt.Sprintf("needs root, runs as user %d", uid), "run the tests with sudo, or as root in a virtual machine")
	}
}

// NeedTool skips the test unless the program name is installed, and returns
// its path. The directories of administration programs are searched too, as
// they are often missing in a user's PATH.
func NeedTool(t testing.TB, name string) string {
	t.Helper()
	path, err := findTool(name)
	if err != nil {
		pkg, ok := debianPackage[name]
		if !ok {
			pkg = name
		}
		skip(t, fmt.Sprintf("needs the program %s", name), "on Debian: apt-get install "+pkg)
	}
	return path
}

func findTool(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if path, e := exec.LookPath(filepath.Join(dir, name)); e == nil {
			return path, nil
		}
	}
	return "", err
}

// debianPackage has the package of each program that is not named like it.
var debianPackage = map[string]string{
	"busybox":  "busybox-static",
	"rsyslogd": "rsyslog",
	"docker":   "docker.io",
	"dockerd":  "docker.io",
	"htpasswd": "apache2-utils",
	"convert":  "imagemagick",
	"ip":       "iproute2",
	"nft":      "nftables",
	"setfattr": "attr",
	"getfattr": "attr",

	"libtoolize": "libtool",
}

// A Feature is something that a kernel or machine has or lacks.
type Feature string

const (
	Overlay Feature = "overlay"  // the overlay file system
	UserNS  Feature = "userns"   // user namespaces
	Cgroups Feature = "cgroups"  // the memory, pids and cpu controllers, version 1 or 2, writable
	Cgroup1 Feature = "cgroup1"  // the memory controller on a version 1 hierarchy
	Cgroup2 Feature = "cgroup2"  // the memory controller on the version 2 hierarchy
	NetNS   Feature = "netns"    // network namespaces
	Seccomp Feature = "seccomp"  // system call filters
	Tmpfs   Feature = "tmpfs"    // mounting a tmpfs (root)
	Docker  Feature = "docker"   // a Docker engine; where dockerd is installed and none runs, one is started for the test
	Address Feature = "address"  // an IPv4 address besides loopback
	Network Feature = "internet" // a name server and a route to registries; no test of the default run needs it
)

// features has, for each Feature, a look that returns why it is missing (empty:
// it is there), and how to get it.
var features = map[Feature]struct {
	missing func(context.Context) string
	get     string
}{
	Overlay: {noFilesystem("overlay"), "modprobe overlay, or a kernel with CONFIG_OVERLAY_FS"},
	Tmpfs:   {noFilesystem("tmpfs"), "a kernel with CONFIG_TMPFS"},
	UserNS:  {noUserNS, "a kernel with CONFIG_USER_NS, and: sysctl user.max_user_namespaces=15000"},
	NetNS:   {noNamespace("net"), "a kernel with CONFIG_NET_NS"},
	Seccomp: {noSeccomp, "a kernel with CONFIG_SECCOMP_FILTER"},
	Cgroups: {noCgroups, "mount /sys/fs/cgroup with the memory, pids and cpu controllers (systemd does)"},
	Cgroup1: {noCgroup1, "boot with systemd.unified_cgroup_hierarchy=0"},
	Cgroup2: {noCgroup2, "boot with systemd.unified_cgroup_hierarchy=1"},
	Address: {noAddress, "ip addr add 10.77.0.1/32 dev lo"},
	Network: {noNetwork, "a network with a name server"},
}

// NeedFeature skips the test unless this machine has all of fs.
func NeedFeature(t testing.TB, fs ...Feature) {
	t.Helper()
	for _, f := range fs {
		if f == Docker {
			needDocker(t)
			continue
		}
		look, ok := features[f]
		if !ok {
			t.Fatalf("testenv has no feature %q", f)
		}
		if why := look.missing(t.Context()); why != "" {
			skip(t, fmt.Sprintf("needs %s: %s", f, why), look.get)
		}
	}
}

// SkipUnless skips the test with a reason of its own, for a need that only one
// test has. get says how to fulfil it.
func SkipUnless(t testing.TB, ok bool, why, get string) {
	t.Helper()
	if !ok {
		skip(t, why, get)
	}
}

// SkipInShort skips a long test under go test -short. That is a choice of the
// caller, so it is a skip even where tests must run.
func SkipInShort(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("long: left out by -short")
	}
}

func skip(t testing.TB, why, get string) {
	t.Helper()
	if MustRun() {
		t.Fatalf("this test must run (HOB_TEST_MUST_RUN=1) and %s. To get it: %s", why, get)
	}
	t.Skipf("%s. To get it: %s", why, get)
}

func noFilesystem(name string) func(context.Context) string {
	return func(context.Context) string {
		if os.Geteuid() != 0 {
			return "only root can mount it"
		}
		data, err := os.ReadFile("/proc/filesystems")
		if err != nil {
			return err.Error()
		}
		if !slices.Contains(strings.Fields(string(data)), name) {
			return "the kernel has no file system " + name
		}
		return ""
	}
}

func noNamespace(kind string) func(context.Context) string {
	return func(context.Context) string {
		if _, err := os.Stat("/proc/self/ns/" + kind); err != nil {
			return "the kernel has no " + kind + " namespaces"
		}
		return ""
	}
}

func noUserNS(ctx context.Context) string {
	if why := noNamespace("user")(ctx); why != "" {
		return why
	}
	if data, err := os.ReadFile("/proc/sys/user/max_user_namespaces"); err == nil && strings.TrimSpace(string(data)) == "0" {
		return "user.max_user_namespaces is 0"
	}
	return ""
}

func noSeccomp(context.Context) string {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err.Error()
	}
	if !strings.Contains(string(data), "Seccomp_filters:") && !strings.Contains(string(data), "Seccomp:") {
		return "the kernel has no system call filters"
	}
	return ""
}

// controllers1 returns the controllers of mounted version 1 hierarchies with
// their mount points.
func controllers1() map[string]string {
	found := make(map[string]string)
	data, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 3 && f[2] == "cgroup" {
			for opt := range strings.SplitSeq(f[3], ",") {
				found[opt] = f[1]
			}
		}
	}
	return found
}

// controllers2 returns the controllers of the version 2 hierarchy.
func controllers2() []string {
	data, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		return nil
	}
	return strings.Fields(string(data))
}

// CPUIdle returns "1" if the cgroup with this name is in the kernel's idle class, "0" if
// not. It skips t where kernels have none.
func CPUIdle(t testing.TB, name string) string {
	t.Helper()
	tree := cmp.Or(controllers1()["cpu"], "/sys/fs/cgroup")
	text, err := os.ReadFile(filepath.Join(tree, name, "cpu.idle"))
	SkipUnless(t, !errors.Is(err, fs.ErrNotExist), "needs cgroups with an idle class", "Linux 5.15 or newer")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func noCgroups(ctx context.Context) string {
	if os.Geteuid() != 0 {
		return "only root may make them"
	}
	v1, v2 := controllers1(), controllers2()
	for _, c := range []string{"memory", "pids", "cpu"} {
		if v1[c] == "" && !slices.Contains(v2, c) {
			return "no controller " + c
		}
	}
	return ""
}

func noCgroup1(context.Context) string {
	if controllers1()["memory"] == "" {
		return "no version 1 hierarchy has the memory controller"
	}
	return ""
}

func noCgroup2(context.Context) string {
	if !slices.Contains(controllers2(), "memory") {
		return "the version 2 hierarchy has no memory controller"
	}
	return ""
}

func noAddress(context.Context) string {
	if _, err := OwnAddress(); err != nil {
		return err.Error()
	}
	return ""
}

// OwnAddress is an IPv4 address of this machine that is not loopback.
func OwnAddress() (string, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && ip.IP.IsGlobalUnicast() {
			return ip.IP.String(), nil
		}
	}
	return "", errors.New("no address but loopback")
}

func noNetwork(ctx context.Context) string {
	if data, err := os.ReadFile("/proc/net/route"); err != nil || !strings.Contains(string(data), "\t00000000\t") {
		return "no default route"
	}
	return ""
}

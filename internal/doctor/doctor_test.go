package doctor_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hob/faas"
	"hob/internal/doctor"
	"hob/internal/testenv"
)

const (
	mountsV2 = "22 27 0:21 / /proc rw - proc proc rw\n27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
	mountsV1 = "27 1 254:0 / / rw - ext4 /dev/vda rw\n" +
		"32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n33 31 0:30 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct\n" +
		"35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n" +
		"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)

// healthy is a machine on which everything is there, as files.
func healthy() map[string]string {
	files := map[string]string{
		"proc/self/mountinfo":                   mountsV2,
		"proc/self/status":                      "Name:\thob\nUid:\t0\t0\t0\t0\n",
		"proc/sys/kernel/osrelease":             "6.1.0-13-amd64\n",
		"proc/sys/kernel/seccomp/actions_avail": "kill_process allow\n",
		"proc/sys/user/max_user_namespaces":     "15000\n",
		"proc/filesystems":                      "nodev\tproc\nnodev\toverlay\n\text4\n",
		"sys/fs/cgroup/cgroup.controllers":      "cpuset cpu io memory pids\n",
		"srv/keep":                              "",
	}
	for _, ns := range []string{"mnt", "pid", "net", "ipc", "uts", "cgroup", "user"} {
		files["proc/self/ns/"+ns] = ""
	}
	return files
}

// machine writes files to a directory and looks at it as at a machine.
func machine(t *testing.T, files map[string]string) doctor.Machine {
	t.Helper()
	root := t.TempDir()
	for name, data := range files {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return doctor.Machine{
		Root: root, Data: "/srv/hob/new", Driver: "ns",
		Free: func(string) (faas.Bytes, error) { return 10 * faas.GB, nil },
	}
}

func TestHealthyMachineIsNotRefused(t *testing.T) {
	files := healthy()
	for name, mounts := range map[string]string{"version 2": mountsV2, "hybrid": mountsV1} {
		t.Run(name, func(t *testing.T) {
			files["proc/self/mountinfo"] = mounts
			checks := doctor.Look(machine(t, files))
			if err := doctor.Refusal(checks); err != nil {
				t.Error(err)
			}
			for _, c := range checks {
				if !c.OK || c.Found == "" || c.Fix != "" {
					t.Errorf("%+v", c)
				}
			}
		})
	}
}

func TestEachLackIsNamedWithItsRemedy(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(files map[string]string, m *doctor.Machine)
		refused bool
		want    []string
	}{
		{"no proc", drop("proc/self/mountinfo"), true, []string{"/proc", "mount -t proc"}},
		{"old kernel", put("proc/sys/kernel/osrelease", "4.19.0\n"), true, []string{"Linux 4.19.0", "Linux 5.12 or newer"}},
		{"strange kernel", put("proc/sys/kernel/osrelease", "plan9\n"), true, []string{"plan9"}},
		{"not root", put("proc/self/status", "Uid:\t1000\t1000\t1000\t1000\n"), true, []string{"user 1000", "sudo"}},
		{"no pid namespaces", drop("proc/self/ns/pid"), true, []string{"pid", "CONFIG_NAMESPACES"}},
		{"no user namespaces", drop("proc/self/ns/user"), false, []string{"CONFIG_USER_NS"}},
		{"user namespaces off", put("proc/sys/user/max_user_namespaces", "0\n"), false, []string{"sysctl user.max_user_namespaces"}},
		{"owners cannot be mapped", put("proc/sys/kernel/osrelease", "5.15.0\n"), false, []string{"5.19"}},
		{"no overlay", put("proc/filesystems", "\text4\n"), true, []string{"modprobe overlay"}},
		{"no cgroups", put("proc/self/mountinfo", "27 1 254:0 / / rw - ext4 /dev/vda rw\n"), true, []string{"no control groups", "mount -t cgroup2"}},
		{"no memory controller", put("sys/fs/cgroup/cgroup.controllers", "cpu pids\n"), true, []string{"without: memory", "cgroup_enable=memory"}},
		{"read-only cgroups", put("proc/self/mountinfo", strings.Replace(mountsV2, "/sys/fs/cgroup rw", "/sys/fs/cgroup ro", 1)), true, []string{"read-only", "remount,rw /sys/fs/cgroup"}},
		{"version 1 without pids", put("proc/self/mountinfo", strings.Replace(mountsV1, "rw,pids", "rw,freezer", 1)), true, []string{"without: pids", "-o pids"}},
		{"no seccomp", drop("proc/sys/kernel/seccomp/actions_avail"), true, []string{"CONFIG_SECCOMP_FILTER"}},
		{"data on overlay", put("proc/self/mountinfo", mountsV2+"50 27 0:50 / /srv rw - overlay overlay rw\n"), true, []string{"/srv/hob/new is on overlay", "--data"}},
		{"data on NFS", put("proc/self/mountinfo", mountsV2+"50 27 0:50 / /srv rw - nfs4 server:/ rw\n"), true, []string{"nfs4", "--data"}},
		{"data on FUSE", put("proc/self/mountinfo", mountsV2+"50 27 0:50 / /srv rw - fuse.sshfs x rw\n"), true, []string{"fuse.sshfs", "--data"}},
		{"data without execution", put("proc/self/mountinfo", mountsV2+"50 27 0:50 / /srv rw,noexec - ext4 /dev/b rw\n"), true, []string{"noexec"}},
		{"data read-only", put("proc/self/mountinfo", mountsV2+"50 27 0:50 / /srv ro - ext4 /dev/b rw\n"), true, []string{"read-only"}},
		{"data is a file", func(_ map[string]string, m *doctor.Machine) { m.Data = "/srv/keep" }, true, []string{"/srv/keep is not a directory"}},
		{"no data directory", func(_ map[string]string, m *doctor.Machine) { m.Data = "" }, true, []string{"none is named"}},
		{"disk nearly full", func(_ map[string]string, m *doctor.Machine) {
			m.Free = func(string) (faas.Bytes, error) { return faas.MB, nil }
		}, false, []string{"1 MB free", "1 GB free"}},
		{"free space unknown", func(_ map[string]string, m *doctor.Machine) {
			m.Free = func(string) (faas.Bytes, error) { return 0, errors.New("no answer") }
		}, false, []string{"no answer"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := healthy()
			var over doctor.Machine
			c.change(files, &over)
			m := machine(t, files)
			if over.Free != nil {
				m.Free = over.Free
			}
			if strings.HasPrefix(c.name, "data is") || strings.HasPrefix(c.name, "no data") {
				m.Data = over.Data
			}
			checks := doctor.Look(m)
			var printed strings.Builder
			if err := doctor.Print(&printed, checks); err != nil {
				t.Fatal(err)
			}
			for _, want := range c.want {
				if !strings.Contains(printed.String(), want) {
					t.Errorf("the list does not say %q:\n%s", want, &printed)
				}
			}
			err := doctor.Refusal(checks)
			if !c.refused {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if faas.KindOf(err) != faas.Unsupported {
				t.Fatalf("got %v, want a refusal", err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the refusal does not say %q: %v", want, err)
				}
			}
		})
	}
}

func TestModuleThatCanBeLoadedIsEnough(t *testing.T) {
	files := healthy()
	files["proc/filesystems"] = "\text4\n"
	files["lib/modules/6.1.0-13-amd64/modules.dep"] = "kernel/fs/overlayfs/overlay.ko:\n"
	if err := doctor.Refusal(doctor.Look(machine(t, files))); err != nil {
		t.Error(err)
	}
}

func TestFakeDriverNeedsOnlyADataDirectory(t *testing.T) {
	m := machine(t, map[string]string{"srv/keep": ""})
	m.Driver = "fake"
	if err := doctor.Refusal(doctor.Look(m)); err != nil {
		t.Error(err)
	}
	m.Data = "/srv/keep"
	if err := doctor.Refusal(doctor.Look(m)); err == nil {
		t.Error("a file was taken for a data directory")
	}
}

func TestMachineOfTheTestsIsHealthy(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedFeature(t, testenv.Overlay, testenv.Cgroups)
	if err := doctor.Refusal(doctor.Look(doctor.Machine{Data: t.TempDir(), Driver: "ns"})); err != nil {
		t.Error(err)
	}
}

func drop(name string) func(map[string]string, *doctor.Machine) {
	return func(files map[string]string, _ *doctor.Machine) { delete(files, name) }
}

func put(name, data string) func(map[string]string, *doctor.Machine) {
	return func(files map[string]string, _ *doctor.Machine) { files[name] = data }
}

package oci

import (
	"path/filepath"
	"testing"

	"hob/faas"
	"hob/internal/sandbox"
	"hob/internal/sandbox/sandboxtest"
	"hob/internal/testenv"
)

func gets(what ...string) []string { return what }

// differ has what comes of attacks in sandboxes of other runtimes instead of what ns gives.
var differ = map[bool][]sandboxtest.Difference{
	false: {{
		Why: "the filter of the OCI has no words for it: what is not allowed fails with EPERM",
		Gets: map[string][]string{
			"packet socket": gets("EPERM"), "crypto socket": gets("EPERM"), "vsock socket": gets("EPERM"), "device events": gets("EPERM"), "firewall": gets("EPERM"),
		},
	}, {
		Why:  "libseccomp has the kernel end the thread",
		Gets: map[string][]string{"x32 calls": gets("the thread is ended"), "32-bit calls": gets("the thread is ended")},
	}},
	true: {{
		Why: "gVisor does not have it, or says it in other words",
		Gets: map[string][]string{
			"file handle": gets("ENOTSUP"), "kmsg": gets("ENOENT"), "kallsyms": gets("ENOENT"), "core pattern": gets("ENOENT"), "mount attribute": gets("ENOSYS"),
			"clone3": gets("EINVAL"), "add key": gets("EACCES"), "request key": gets("EACCES"), "perf events": gets("ENODEV"), "userfaultfd": gets("ENOSYS"),
			"fanotify": gets("ENOSYS"), "real time": gets("EINVAL"), "personality": gets("EINVAL"), "x32 calls": gets("ENOSYS"), "terminal input": gets("ENOTTY"),
			"packet socket": gets("EPERM"), "unshare others": gets("EINVAL"),
		},
	}, {
		Why: "it is done, in gVisor's kernel, which only this sandbox has: its namespaces, keys, log, limits, priorities and devices",
		Gets: map[string][]string{
			"unshare user": gets("done"), "clone user": gets("done"), "clone mounts": gets("done"), "keyctl": gets("done"), "aio": gets("done"),
			"kernel log": gets("done"), "priority": gets("done"), "core files": gets("done"), "device events": gets("done"),
			"sysrq": gets("done", "EACCES"), "sysctls": gets("12 can be opened: ", "none of them"), "proc": gets("13 can be opened: ", "none of them"),
			"devices": gets("2 can be opened: /dev/fuse /dev/net/tun"),
		},
	}, {
		Why:  "gVisor's network lets it, and the router drops what does not come from the slot's addresses",
		Gets: map[string][]string{"foreign address": gets("done")},
	}, {
		Why:  "what root writes to is its own copy in memory; another user may not",
		Gets: map[string][]string{"own program": gets("done", "EACCES")},
	}},
}

// TestNoAttackReachesOut carries out the attacks in sandboxes of each kind.
func TestNoAttackReachesOut(t *testing.T) {
	each(t, func(t *testing.T, program string) {
		s := spec(t, "prog")
		prog := filepath.Join(layer(t), "bin/prog")
		evil := sandboxtest.EvilLayer(t, prog)
		s.Root, s.Memory, s.Sockets = sandbox.Root{Key: evil, Layers: []string{evil, layer(t)}}, 256*faas.MB, "/tmp/iofs"
		o := sandboxtest.NewOutside(t, prog, evil)
		d := open(t, program)
		t.Run("as", func(t *testing.T) { // at once
			for name, user := range map[string]uint32{"root": 0, "user": 1000} {
				t.Run(name, func(t *testing.T) {
					testenv.SkipUnless(t, user != 0 || d.caps.UserNamespaces, "needs user namespaces with mapped owners", "Linux 5.19 or newer")
					t.Parallel()
					s := s
					s.User, s.Writable = sandbox.User{UID: user, GID: user}, user == 0
					o.TestAttacks(t, d, s, differ[d.kind.ownKernel]...)
				})
			}
		})
	}, "crun")
}

// rig is a driver of the test's own, with sandboxes that run package prog.
func rig(t *testing.T, program string) sandboxtest.Rig {
	d := open(t, program)
	return sandboxtest.Rig{
		Driver: d, OwnKernel: d.kind.ownKernel,
		Spec: func(args ...string) sandbox.Spec { return spec(t, append([]string{"prog"}, args...)...) },
	}
}

func TestMemoryIsLimitedInEachKind(t *testing.T) {
	each(t, func(t *testing.T, program string) {
		r := rig(t, program)
		most := 80
		if r.OwnKernel { // the function may use what gVisor leaves of its own
			most += int(r.Driver.(*Driver).kind.overhead / faas.MB)
		}
		r.TestBombs(t, most)
	})
}

func TestStormsStayInTheirSandbox(t *testing.T) {
	each(t, func(t *testing.T, program string) {
		testenv.NothingLeft(t, testenv.Mark())
		rig(t, program).TestStorms(t)
	})
}

func TestAProgramHasThreeDescriptors(t *testing.T) {
	each(t, func(t *testing.T, program string) {
		r := run(t, open(t, program), spec(t, "prog", "descriptors"))
		if r.out != "0 1 2 " {
			t.Errorf("descriptors %q, want 0 1 2", r.out)
		}
	}, "crun")
}

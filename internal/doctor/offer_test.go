package doctor_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hob/faas"
	"hob/internal/doctor"
	"hob/internal/testenv"
)

// offering is a machine on which all that functions can be offered is there. change may take
// something away.
func offering(t *testing.T, change func(files map[string]string, offer *doctor.Offer, answers *doctor.Answers)) doctor.Machine {
	t.Helper()
	files := healthy()
	files["etc/resolv.conf"] = "# ours\nsearch lan\nnameserver 10.0.0.53\nnameserver fd00::53\n"
	files["proc/sys/net/ipv4/conf/all/forwarding"] = "0\n"
	files["proc/sys/net/ipv6/conf/all/forwarding"] = "1\n"
	answers := doctor.Answers{Landlock: true, Names: []netip.Addr{netip.MustParseAddr("10.0.0.53")}}
	offer := &doctor.Offer{
		Network: "open",
		Programs: map[faas.Isolation]string{
			faas.IsolationGVisor: program(t, "echo runsc version release-1"), faas.IsolationRunc: program(t, "echo runc version 1.1.5"),
			faas.IsolationCrun: program(t, "echo crun version 1.8.1"),
		},
		Needed: map[faas.Isolation]string{faas.IsolationNative: "isolation"},
	}
	change(files, offer, &answers)
	if offer.Try == nil {
		offer.Try = func(string) error { return nil }
	}
	if offer.Ask == nil {
		offer.Ask = func([]netip.Addr) doctor.Answers { return answers }
	}
	m := machine(t, files)
	m.Offer = offer
	return m
}

// program is one that runs a line of shell.
func program(t *testing.T, line string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+line+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestMachineThatOffersAllIsWithoutFault(t *testing.T) {
	m := offering(t, func(map[string]string, *doctor.Offer, *doctor.Answers) {})
	checks := doctor.Look(m)
	for _, c := range checks {
		if !c.OK || c.Found == "" || c.Fix != "" {
			t.Errorf("%+v", c)
		}
	}
	var printed strings.Builder
	if err := doctor.Print(&printed, checks); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"yes      isolation native hob's own", "yes      isolation gvisor /", "/program, runsc version release-1\n", "runc version 1.1.5", "crun version 1.8.1",
		"name server      10.0.0.53 answers", "forwarding       of IPv4 is off: hob serve switches it on",
	} {
		if !strings.Contains(printed.String(), want) {
			t.Errorf("the list does not say %q:\n%s", want, &printed)
		}
	}
}

type taking = func(map[string]string, *doctor.Offer, *doctor.Answers)

func without(change func(*doctor.Answers)) taking {
	return func(_ map[string]string, _ *doctor.Offer, a *doctor.Answers) { change(a) }
}

func with(name, data string) taking {
	return func(files map[string]string, _ *doctor.Offer, _ *doctor.Answers) { files[name] = data }
}

func calling(of faas.Isolation, program string) taking {
	return func(_ map[string]string, o *doctor.Offer, _ *doctor.Answers) { o.Programs[of] = program }
}

// both takes away what each of its arguments does.
func both(a, b taking) taking {
	return func(files map[string]string, o *doctor.Offer, answers *doctor.Answers) {
		a(files, o, answers)
		b(files, o, answers)
	}
}

const defaultRoute6 = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n"

func TestEachLackOfAnOfferIsNamedWithItsRemedy(t *testing.T) {
	noVeth := without(func(a *doctor.Answers) {
		a.Network = errors.New("make a pair of devices (veth): operation not supported")
	})
	needsGVisor := func(_ map[string]string, o *doctor.Offer, _ *doctor.Answers) {
		o.Needed = map[faas.Isolation]string{faas.IsolationGVisor: "hyper-isolation"}
	}
	for name, c := range map[string]struct {
		change  taking
		refused bool
		want    []string
	}{
		"no landlock": {without(func(a *doctor.Answers) { a.Landlock = false }), false, []string{"weak     landlock", "CONFIG_SECURITY_LANDLOCK", "lsm="}},
		"no veth":     {noVeth, true, []string{"network", "pair of devices (veth)", "modprobe -a veth nf_tables", "network=none"}},
		"no veth, and no network wanted": {both(noVeth, func(_ map[string]string, o *doctor.Offer, _ *doctor.Answers) { o.Network = "none" }),
			false, []string{"weak     network", "CONFIG_VETH"}},
		"no queue that limits": {without(func(a *doctor.Answers) { a.Bandwidth = errors.New("no such file") }), false, []string{"weak     bandwidth", "modprobe sch_tbf"}},
		"no queue for a limit": {func(_ map[string]string, o *doctor.Offer, a *doctor.Answers) {
			a.Bandwidth, o.Bandwidth = errors.New("no such file"), faas.MB
		}, true, []string{"bandwidth", "network-bandwidth=0"}},
		"settings that cannot be written": {with("proc/self/mountinfo", mountsV2+"50 22 0:21 /sys /proc/sys ro - proc proc rw\n"), true, []string{"/proc/sys is read-only", "--privileged"}},
		"no settings":                     {with("proc/sys/net/ipv4/conf/all/forwarding", ""), true, []string{"net.ipv4.conf.all.forwarding", "CONFIG_SYSCTL"}},
		"no IPv6":                         {with("proc/sys/net/ipv6/conf/all/forwarding", ""), false, []string{"ok       IPv6", "turned off"}},
		"IPv6 that leads nowhere":         {with("proc/sys/net/ipv6/conf/all/forwarding", "0\n"), false, []string{"ok       IPv6", "no route"}},
		"IPv6 on an old kernel": {both(with("proc/sys/net/ipv6/conf/all/forwarding", "0\n"), with("proc/net/ipv6_route", defaultRoute6)), false,
			[]string{"weak     IPv6", "Linux 6.17", "sysctl net.ipv6.conf.all.forwarding=1", "accept_ra=2"}},
		"IPv6 on a new kernel": {both(with("proc/sys/net/ipv6/conf/all/forwarding", "0\n"), with("proc/sys/net/ipv6/conf/default/force_forwarding", "0\n")), false,
			[]string{"ok       IPv6", "switches it on"}},
		"Docker":             {without(func(a *doctor.Answers) { a.Drops = []string{"ip filter FORWARD"} }), false, []string{"ok       firewall", "ip filter FORWARD", "adds its device"}},
		"firewalld":          {without(func(a *doctor.Answers) { a.Firewalld = true }), false, []string{"ok       firewall", "--add-interface=hob-+"}},
		"old iptables":       {with("proc/net/ip_tables_names", "nat\nfilter\n"), false, []string{"weak     firewall", "iptables-legacy -I FORWARD -i hob-+ -j ACCEPT"}},
		"old ip6tables":      {with("proc/net/ip6_tables_names", "filter\n"), false, []string{"weak     firewall", "ip6tables-legacy"}},
		"old nat alone":      {with("proc/net/ip_tables_names", "nat\n"), false, []string{"ok       firewall"}},
		"no rules to see":    {without(func(a *doctor.Answers) { a.Filter = errors.New("no such family") }), false, []string{"weak     firewall", "no such family"}},
		"no name server":     {with("etc/resolv.conf", "nameserver\nnameserver x\n#nameserver 1.1.1.1\n"), false, []string{"weak     name server", "names none", "nameserver 192.168.1.1"}},
		"silent name server": {without(func(a *doctor.Answers) { a.Names = nil }), false, []string{"weak     name server", "10.0.0.53, fd00::53 of /etc/resolv.conf", "port 53"}},
		"no program":         {calling(faas.IsolationGVisor, "there-is-no-runsc"), false, []string{"no       isolation gvisor there is no program there-is-no-runsc: build it with make runsc"}},
		"no program at the path": {calling(faas.IsolationRunc, "/opt/is/not/there/runc"), false,
			[]string{"no       isolation runc   /opt/is/not/there/runc cannot be executed", "no such file", "setting runtimes, as runc=/PATH/runc"}},
		"a program that cannot run": {func(_ map[string]string, o *doctor.Offer, _ *doctor.Answers) {
			o.Try = func(program string) error {
				if program == o.Programs[faas.IsolationRunc] {
					return errors.New("no hierarchy for devices")
				}
				return nil
			}
		}, false, []string{"no       isolation runc", "/program, runc version 1.1.5, does not work: no hierarchy for devices: give it what it lacks", "runc=/PATH/runc", "yes      isolation crun"}},
		"a program that is another": {calling(faas.IsolationCrun, program(t, "echo runc version 1.1.5")), false, []string{"no       isolation crun", "is not crun", `"runc version 1.1.5"`}},
		"a program that fails":      {calling(faas.IsolationCrun, program(t, "exit 3")), false, []string{"no       isolation crun", "does not tell its version: exit status 3"}},
		"no program for what is needed": {both(needsGVisor, calling(faas.IsolationGVisor, "there-is-no-runsc")), true,
			[]string{"isolation gvisor", "there is no program there-is-no-runsc", "runsc, which the setting hyper-isolation asks for", "make runsc"}},
		"nothing for native": {with("proc/filesystems", "ext4\n"), true, []string{"modprobe overlay"}},
	} {
		t.Run(name, func(t *testing.T) {
			checks := doctor.Look(offering(t, c.change))
			var printed strings.Builder
			if err := doctor.Print(&printed, checks); err != nil {
				t.Fatal(err)
			}
			err := doctor.Refusal(checks)
			if (err != nil) != c.refused || err != nil && faas.KindOf(err) != faas.Unsupported {
				t.Errorf("refused: %v", err)
			}
			for _, want := range c.want {
				if !strings.Contains(printed.String(), want) {
					t.Errorf("the list does not say %q:\n%s", want, &printed)
				}
				if c.refused && !strings.Contains(err.Error(), want) {
					t.Errorf("the refusal does not say %q: %v", want, err)
				}
			}
		})
	}
}

func TestOnlyRootIsToldOfTheKernel(t *testing.T) {
	m := offering(t, func(files map[string]string, o *doctor.Offer, a *doctor.Answers) {
		files["proc/self/status"] = "Uid:\t1000\t1000\t1000\t1000\n"
		a.Network, a.Filter = os.ErrPermission, os.ErrPermission
		o.Try = func(program string) error { t.Errorf("%s was tried", program); return nil }
	})
	for _, c := range doctor.Look(m) {
		if c.Name == "isolation runc" && (!c.OK || !strings.HasSuffix(c.Found, "runc version 1.1.5; only root can try it")) {
			t.Errorf("%+v", c)
		}
		if c.Name == "network" || c.Name == "firewall" {
			if c.OK || c.Fatal || c.Found != "only root can find out" || c.Fix != "sudo hob doctor" {
				t.Errorf("%+v", c)
			}
		}
	}
}

func TestThreeNameServersAreAsked(t *testing.T) {
	var asked []netip.Addr
	m := offering(t, func(files map[string]string, o *doctor.Offer, _ *doctor.Answers) {
		files["etc/resolv.conf"] = "nameserver 10.0.0.1\nnameserver 10.0.0.2 # two\nnameserver fd00::3\nnameserver 10.0.0.4\n"
		o.Ask = func(servers []netip.Addr) doctor.Answers { asked = servers; return doctor.Answers{} }
	})
	doctor.Look(m)
	want := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::3")}
	if !slices.Equal(asked, want) {
		t.Errorf("asked %v, want %v", asked, want)
	}
}

func TestFakeDriverIsAskedForNoOffer(t *testing.T) {
	m := offering(t, func(_ map[string]string, o *doctor.Offer, _ *doctor.Answers) {
		o.Ask = func([]netip.Addr) doctor.Answers { t.Error("the kernel was asked"); return doctor.Answers{} }
	})
	m.Driver = "fake"
	if err := doctor.Refusal(doctor.Look(m)); err != nil {
		t.Error(err)
	}
}

// TestKernelOfTheTestsGivesNetworks asks the kernel that runs the tests, which leaves nothing.
func TestKernelOfTheTestsGivesNetworks(t *testing.T) {
	testenv.NeedRoot(t)
	if a := doctor.Ask(nil); a.Network != nil || a.Bandwidth != nil || a.Filter != nil || len(a.Names) != 0 {
		t.Errorf("%+v", a)
	}
}

// TestProgramIsTried starts a sandbox with one that works, and with one that does nothing but
// say its version.
func TestProgramIsTried(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NothingLeft(t, "doctor") // as its generations are called
	runc := testenv.NeedTool(t, "runc")
	if err := doctor.Try(runc); err != nil {
		t.Error(err)
	}
	broken := program(t, `[ "$1" = --version ] && echo runc version 1.1.5`)
	if err := doctor.Try(broken); faas.KindOf(err) != faas.Unsupported || !strings.Contains(err.Error(), "cannot start a sandbox on this node: runc: ended with exit code 1") {
		t.Errorf("%v, want Unsupported", err)
	}
}

package sandboxtest

import (
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/sandbox"
)

// testNetworks has programs connect to what is in the World.
func (s *suite) testNetworks(t *testing.T) {
	caps, err := s.Driver.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !caps.Egress {
		spec := s.within(t, "open", nil, "exit", "0")
		if _, err := s.Driver.Start(t.Context(), spec); faas.KindOf(err) != faas.Unsupported {
			t.Errorf("Start = %v, want Unsupported", err)
		}
	}
	if s.World == nil {
		return
	}
	t.Run("NoneIsALoopback", func(t *testing.T) {
		if got := s.say(t, s.within(t, "none", nil, "devices")); len(got) != 1 || got["lo"] == "" {
			t.Errorf("devices %v, want lo alone", got)
		}
		s.asks(t, s.within(t, "none", nil), map[string]string{onInternet: "", onNode: ""})
	})
	t.Run("OpenIsTheInternet", func(t *testing.T) {
		other := s.startSpec(t, s.within(t, "open", nil, "welcome", "443"))
		got := s.say(t, s.within(t, "open", nil, "devices"))
		if a, err := netip.ParsePrefix(strings.Fields(got["eth0"] + " -")[0]); len(got) != 2 || !a.IsSingleIP() {
			t.Errorf("devices %v, %v; want lo and eth0 with an address of its own", got, err)
		}
		want := map[string]string{
			onInternet: "internet", byName: "internet", onPrivate: "", onNode: "", s.gateway() + ":443": "",
		}
		addrs := lines(t, other)["eth0"]
		for _, a := range strings.Fields(addrs) {
			if addr := netip.MustParsePrefix(a).Addr(); !addr.IsLinkLocalUnicast() {
				want[netip.AddrPortFrom(addr, 443).String()] = ""
				if addr.Is6() {
					want[onInternet6] = "internet"
				}
			}
		}
		s.asks(t, s.within(t, "open", nil), want)
	})
	t.Run("AllowIsWhatRulesSay", func(t *testing.T) {
		s.asks(t, s.within(t, "allow", []string{onPrivate, byName}), map[string]string{
			onPrivate: "private", byName: "internet", onNode: "", "10.1.2.3:5433": "", "other.example.com:443": "",
		})
		s.asks(t, s.within(t, "allow", nil), map[string]string{onInternet: "", onPrivate: "", byName: ""})
		s.asks(t, s.within(t, "open", []string{onNode}), map[string]string{onInternet: "internet", onNode: "node", onPrivate: ""})
	})
	t.Run("AddressesOfOthersAreNotTaken", func(t *testing.T) {
		other := s.startSpec(t, s.within(t, "open", nil, "welcome", "443"))
		var theirs string
		for _, a := range strings.Fields(lines(t, other)["eth0"]) {
			if addr := netip.MustParsePrefix(a).Addr(); addr.Is6() && !addr.IsLinkLocalUnicast() {
				theirs = addr.String() // with IPv4 no program without rights gets so far
			}
		}
		if theirs == "" {
			return
		}
		got := s.say(t, s.within(t, "open", nil, "send", onDatagrams, theirs, "fd00:9::3", "2600::1", "-"))
		select {
		case from := <-s.World.heard:
			if from != "-" { // which was sent last
				t.Errorf("%s is heard, and sent was with the outcomes %v", from, got)
			}
		case <-time.After(patience):
			t.Errorf("nothing is heard; sent was with the outcomes %v", got)
		}
	})
	t.Run("NamesAreAskedOfTheRouter", func(t *testing.T) {
		want := string(s.World.Router.ResolvConf())
		if got := read(t, s.startSpec(t, s.within(t, "open", nil, "cat", "/etc/resolv.conf")).Stdio().Stdout); got != want {
			t.Errorf("/etc/resolv.conf is %q, want %q", got, want)
		}
	})
	t.Run("RefusalsAreToldWithTheSandbox", func(t *testing.T) {
		for _, mode := range []string{"open", "allow"} {
			for range 5 { // from each sort of blank, if there are some
				spec := s.within(t, mode, nil)
				s.asks(t, spec, map[string]string{onPrivate: ""})
				if r := s.World.Refusal(spec.ID); r.Rule() != onPrivate {
					t.Errorf("refused was %+v, want %s", r, onPrivate)
				}
			}
		}
	})
	t.Run("SlotsComeBack", func(t *testing.T) { s.testSlotsComeBack(t) })
	t.Run("DialAndListen", func(t *testing.T) {
		for _, mode := range []string{"none", "open", "allow"} {
			if s.OwnKernel {
				return
			}
			t.Run(mode, func(t *testing.T) {
				spec := s.within(t, mode, nil, "serve", "hello")
				b := Serve(t, s.Driver, spec)
				b.Do("listen tcp 127.0.0.1:8080")
				if got, err := b.Hear("tcp", "127.0.0.1:8080"); got != "hello" || err != nil {
					t.Errorf("heard %q, %v; want hello", got, err)
				}
				for range 3 {
					spec := s.within(t, mode, nil, "connect", listened, "word")
					spec.Listen = listened
					c := Call(t, s.Driver, spec)
					c.Connected()
					c.Answered()
				}
			})
		}
	})
}

// testSlotsComeBack looks for the network of a sandbox that was stopped among those
// that the router hands out. It keeps as many as come back at a time: of several, one
// has to be there.
func (s *suite) testSlotsComeBack(t *testing.T) {
	if s.OwnKernel {
		return // which does not tell
	}
	stopped := make(map[string]bool)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		b := s.startSpec(t, s.within(t, "open", nil, "network"))
		was := read(t, b.Stdio().Stdout)
		if stopped[was] {
			return
		}
		stopped[was] = true
		if err := b.Stop(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		slot, err := s.World.Router.Take(t.Context(), faas.Egress{Mode: faas.NetworkOpen}, "")
		if err != nil {
			t.Fatal(err)
		}
		defer slot.Release() // until then it is not handed out: there is room for others
		now, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(slot.FD()))
		if err != nil {
			t.Fatal(err)
		}
		if stopped[now] {
			return
		}
	}
	t.Errorf("none of %d was handed out again", len(stopped))
}

// within returns a Spec with a network of its own.
func (s *suite) within(t *testing.T, mode string, allow []string, args ...string) sandbox.Spec {
	t.Helper()
	spec := s.Spec(args...)
	var err error
	if spec.Network, err = faas.ParseEgress(mode, allow); err != nil {
		t.Fatal(err)
	}
	return spec
}

// gateway is the address of the name server.
func (s *suite) gateway() string { return strings.Fields(string(s.World.Router.ResolvConf()))[1] }

// asks has a program connect to addresses, which must answer as want says, or with
// "" not be reached.
func (s *suite) asks(t *testing.T, spec sandbox.Spec, want map[string]string) {
	t.Helper()
	spec.Args = append(spec.Args, "ask")
	for addr := range want {
		spec.Args = append(spec.Args, addr)
	}
	got := s.say(t, spec)
	for addr, word := range want {
		if said := got[addr]; said != word && (word != "" || !strings.HasPrefix(said, "error: ")) {
			t.Errorf("%s: asked %s: %q, want %q", spec.Network.Mode, addr, said, word)
		}
	}
}

// say returns what a program says until it ends: of each line, the rest by the first word.
func (s *suite) say(t *testing.T, spec sandbox.Spec) map[string]string {
	t.Helper()
	b := s.startSpec(t, spec)
	said := lines(t, b)
	s.ends(t, b, faas.Exit{})
	return said
}

func lines(t *testing.T, b sandbox.Sandbox) map[string]string {
	t.Helper()
	said := make(map[string]string)
	for line := range strings.Lines(read(t, b.Stdio().Stdout)) {
		name, what, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		said[name] = what
	}
	return said
}

package sandboxtest

import (
	"os"
	"slices"
	"testing"

	"hob/faas"
	"hob/internal/testenv"
)

// testDevices gives devices of the machine to a sandbox, which opens them.
func (s *suite) testDevices(t *testing.T) {
	if s.World == nil {
		return // nothing is isolated
	}
	caps, err := s.Driver.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all := []string{"/dev/fuse", "/dev/net/tun", "/dev/loop-control", "/dev/kvm"}
	has := slices.DeleteFunc(slices.Clone(all), func(d string) bool {
		f, err := os.OpenFile(d, os.O_RDWR, 0)
		f.Close()
		return err != nil
	})
	if !caps.Devices {
		spec := s.Spec("exit", "0")
		spec.Devices = all[:1]
		if _, err := s.Driver.Start(t.Context(), spec); faas.KindOf(err) != faas.Unsupported {
			t.Errorf("Start = %v, want Unsupported", err)
		}
		return
	}
	testenv.SkipUnless(t, len(has) > 0, "this machine has no device that can be given away", "load the modules fuse or tun")
	opens := func(devices []string) {
		t.Helper()
		spec := s.Spec(append([]string{"open"}, all...)...)
		spec.Devices = devices
		for device, got := range s.say(t, spec) {
			if want := slices.Contains(devices, device); (got == "ok") != want {
				t.Errorf("with %v: open %s: %q; want it to work: %t", devices, device, got, want)
			}
		}
	}
	for range 2 { // from a prepared blank, too
		opens(has)
		for i := range has {
			opens(has[i : i+1])
		}
		opens(nil)
	}
	for device, want := range map[string]faas.Kind{
		"/dev/none": faas.Unsupported, "/dev/shm": faas.Unsupported, "/etc/passwd": faas.Invalid, "/dev/../etc/passwd": faas.Invalid, "fuse": faas.Invalid,
	} {
		spec := s.Spec("exit", "0")
		spec.Devices = []string{device}
		if _, err := s.Driver.Start(t.Context(), spec); faas.KindOf(err) != want {
			t.Errorf("device %s: %v, want %s", device, err, want)
		}
	}
}
